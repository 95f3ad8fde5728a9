"""Decoders, which turn class capsules into a picture. The contract is `capsule_lightning.decoders.base.Decoder`."""
