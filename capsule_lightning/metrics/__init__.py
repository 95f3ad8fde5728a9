"""What is measured on validation and test images: the sets of metrics that configs name, and the metrics in them."""
