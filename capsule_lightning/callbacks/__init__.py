"""Callbacks: checkpoints, pictures and tables of a run."""
