"""The model families that can be converted: one file for each."""

from mda_jax.converters.dialects import Family
from mda_jax.converters.families import bert, clip, siglip


FAMILIES: tuple[Family, ...] = (bert.FAMILY, clip.FAMILY, siglip.FAMILY)
