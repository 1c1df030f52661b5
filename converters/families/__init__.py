"""The model families that can be converted: one file for each."""

from mda_jax.converters.dialects import Family
from mda_jax.converters.families import bert, gemma2, llama, mixtral, phi3, qwen3_moe


# Gemma 2 and Qwen 3 have all the names of Llama and more: they come after it.
FAMILIES: tuple[Family, ...] = (
    bert.FAMILY,
    llama.FAMILY,
    gemma2.FAMILY,
    phi3.FAMILY,
    mixtral.FAMILY,
    qwen3_moe.FAMILY,
)
