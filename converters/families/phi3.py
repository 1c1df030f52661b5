"""Phi 3: queries, keys and values in one matrix, gate and up in another."""

from mda_jax.converters.dialects import Family, linear
from mda_jax.converters.families.llama import NORMS, decoder


HUB = decoder(
    "hub",
    linear(
        "layers.{i}.self_attn.qkv_proj",
        "layers/{i}/attention/query",
        "layers/{i}/attention/key",
        "layers/{i}/attention/value",
        ratios=("heads", "kv_heads", "kv_heads"),
    ),
    linear("layers.{i}.self_attn.o_proj", "layers/{i}/attention/out"),
    linear("layers.{i}.mlp.gate_up_proj", "layers/{i}/mlp/gate", "layers/{i}/mlp/up"),
    linear("layers.{i}.mlp.down_proj", "layers/{i}/mlp/down"),
    *NORMS,
)

FAMILY = Family("phi3", ("phi3",), (HUB,))
