"""Pictures: each a function of tensors that returns a matplotlib figure, without global state."""
