"""Qwen 3 with experts: some layers may have an MLP instead."""

from mda_jax.converters.dialects import Family, linear
from mda_jax.converters.families.llama import (
    ATTENTION,
    MLP,
    NORMS,
    NORMS_OF_HEADS,
    decoder,
)
from mda_jax.converters.families.mixtral import EXPERTS


HUB = decoder(
    "hub",
    ATTENTION,
    NORMS_OF_HEADS,
    MLP,
    linear("layers.{i}.mlp.gate", "layers/{i}/mlp/router"),
    linear(
        "layers.{i}.mlp.experts.{e*}.{a:gate|up|down}_proj",
        "layers/{i}/mlp/experts/{a}",
    ),
    *NORMS,
)
IN_MEMORY = decoder("transformers5", ATTENTION, NORMS_OF_HEADS, MLP, *EXPERTS, *NORMS)

FAMILY = Family("qwen3_moe", ("qwen3_moe",), (HUB, IN_MEMORY))
