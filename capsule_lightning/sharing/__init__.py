"""Trained networks as files to share."""
