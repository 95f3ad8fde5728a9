"""Capsule networks in PyTorch Lightning: encoders, routing algorithms, decoders and the experiments around them.

Import from the module that defines a thing: ``from capsule_lightning.routing.dynamic import DynamicRouting``.
Importing this package loads nothing heavy.
"""

__version__ = "0.1.0"
