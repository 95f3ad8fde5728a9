"""Encoders: from an image to primary capsules. The contract is `capsule_lightning.encoders.base.Encoder`."""
