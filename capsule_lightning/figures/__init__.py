"""Figures, each a function of tensors that returns a matplotlib figure and needs no global state."""
