"""Loggers that cannot end or delay a training run."""
