"""Fast paths: the same mathematics as the plain functions, arranged for a kind of processor.

Nothing here defines what an algorithm computes: the plain function in `capsule_lightning.routing` does, and tests check
each fast path against it in value and gradient.
"""
