"""Random changes of training images, drawn per sample."""
