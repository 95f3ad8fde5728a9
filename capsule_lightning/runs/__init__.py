"""Runs on disk: folders, checkpoints, signals."""
