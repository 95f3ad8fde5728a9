"""Routing algorithms, which send child capsules to parent capsules; one algorithm a file.

The contract is `capsule_lightning.routing.base.Routing`. Reading order: `uniform` (the control), then `dynamic`.
"""
