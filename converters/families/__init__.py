"""The model families that can be converted: one file for each."""

from mda_jax.converters.dialects import Family
from mda_jax.converters.families import bert, distilbert, gpt2, roberta, t5


FAMILIES: tuple[Family, ...] = (
    bert.FAMILY,
    distilbert.FAMILY,
    gpt2.FAMILY,
    roberta.FAMILY,
    t5.FAMILY,
)
