"""Losses, one a file: the formula as a function, and the class that configs name."""
