"""Runs on disk: folders, files, checkpoints, signals."""
