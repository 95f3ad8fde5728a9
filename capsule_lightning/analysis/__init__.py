"""What a trained network has learnt, as numbers."""
