"""Flax NNX reference models: one file per family, all with plain 2-D kernels.

Every file has `build`, which makes the model that a `config.json` and the leaves of a
checkpoint describe, and `sizes`, the numbers that conversions ask for.
"""
