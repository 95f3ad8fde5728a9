"""Decoders: from class capsules back to the picture. The contract is `capsule_lightning.decoders.base.Decoder`."""
