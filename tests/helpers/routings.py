"""Every routing algorithm of the package, found without naming it."""

import inspect
import pkgutil
from importlib import import_module

from capsule_lightning import routing
from capsule_lightning.routing.base import Routing


def subclasses(cls):
    """Every class below ``cls``."""
    return {found for child in cls.__subclasses__() for found in {child, *subclasses(child)}}


for module in pkgutil.walk_packages(routing.__path__, f"{routing.__name__}."):
    import_module(module.name)
ROUTINGS = sorted(
    (c for c in subclasses(Routing) if c.__module__.startswith(routing.__name__) and not inspect.isabstract(c)),
    key=lambda c: c.__name__,
)
