"""Gemma 2 and the language model of Gemma 3: norms on both sides of each block."""

from mda_jax.converters.dialects import Family, rms_norm
from mda_jax.converters.families.llama import ATTENTION, MLP, NORMS_OF_HEADS, decoder


HUB = decoder(
    "hub",
    ATTENTION,
    NORMS_OF_HEADS,
    MLP,
    rms_norm("layers.{i}.input_layernorm", "layers/{i}/attention_norm"),
    rms_norm("layers.{i}.post_attention_layernorm", "layers/{i}/post_attention_norm"),
    rms_norm("layers.{i}.pre_feedforward_layernorm", "layers/{i}/mlp_norm"),
    rms_norm("layers.{i}.post_feedforward_layernorm", "layers/{i}/post_mlp_norm"),
)

FAMILY = Family("gemma2", ("gemma2", "gemma3_text"), (HUB,))
