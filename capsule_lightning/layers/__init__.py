"""Pure tensor functions that several networks share.

Index letters, the same in every file: ``b`` batch, ``i`` child capsule, ``j`` parent capsule, ``d`` child dimension,
``e`` parent dimension. ``...`` stands for free leading dimensions.
"""
