"""Mixtral: experts one by one in files, stacked in the memory of transformers 5."""

from mda_jax.converters.dialects import Family, experts, linear
from mda_jax.converters.families.llama import ATTENTION, NORMS, decoder


HUB = decoder(
    "hub",
    ATTENTION,
    linear("layers.{i}.block_sparse_moe.gate", "layers/{i}/mlp/router"),
    linear(
        "layers.{i}.block_sparse_moe.experts.{e*}.{a:w1|w2|w3}",
        "layers/{i}/mlp/experts/{a:gate|down|up}",
    ),
    *NORMS,
)
EXPERTS = (
    linear("layers.{i}.mlp.gate", "layers/{i}/mlp/router"),
    experts(
        "layers.{i}.mlp.experts.gate_up_proj",
        "layers/{i}/mlp/experts/gate",
        "layers/{i}/mlp/experts/up",
    ),
    experts("layers.{i}.mlp.experts.down_proj", "layers/{i}/mlp/experts/down"),
)
IN_MEMORY = decoder("transformers5", ATTENTION, *EXPERTS, *NORMS)

FAMILY = Family("mixtral", ("mixtral",), (HUB, IN_MEMORY))
