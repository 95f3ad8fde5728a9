"""Encoders, which turn an image into primary capsules. The contract is `capsule_lightning.encoders.base.Encoder`."""
