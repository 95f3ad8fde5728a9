"""Losses, one a file, each with its formula as a function and the class that configs name."""
