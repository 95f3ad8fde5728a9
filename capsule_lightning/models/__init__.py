"""Networks, assembled from encoders, routing and decoders. The contract is `models.base.CapsuleNet`."""
