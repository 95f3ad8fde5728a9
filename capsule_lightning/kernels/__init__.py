"""Fast paths: the same mathematics as the plain functions, arranged for a processor.

Nothing here defines what an algorithm is: the plain function in `capsule_lightning.routing` does, and tests hold each
fast path to it in value and gradient.
"""
