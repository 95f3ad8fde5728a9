"""Capsule networks in PyTorch Lightning: encoders, routing algorithms, decoders and the experiments around them.

Import from the module that defines a thing: ``from capsule_lightning.routing.dynamic import DynamicRouting``.
`load_network` is here as well. Importing this package loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from capsule_lightning.sharing.network_file import load_network

__version__ = "0.1.0"
__all__ = ["__version__", "load_network"]


def __getattr__(name: str) -> Any:
    """Import `load_network`, and torch with it, when it is first asked for."""
    if name == "load_network":
        from capsule_lightning.sharing.network_file import load_network

        return load_network
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
