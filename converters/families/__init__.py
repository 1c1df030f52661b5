"""The model families that can be converted: one file for each."""

from mda_jax.converters.dialects import Family
from mda_jax.converters.families import bert, convnext, dinov2, resnet, vit


FAMILIES: tuple[Family, ...] = (
    bert.FAMILY,
    vit.FAMILY,
    dinov2.FAMILY,
    resnet.FAMILY,
    convnext.FAMILY,
)
