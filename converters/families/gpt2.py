"""GPT-2."""

from mda_jax.converters.dialects import (
    TORCH,
    Dialect,
    Family,
    buffer,
    embed,
    linear,
    linear_io,
    linen,
    norm,
)


HUB = Dialect(
    "hub",
    TORCH,
    prefixes=("transformer.", ""),
    backbone=(
        embed("w{a:t|p}e", "embeddings/{a:word|position}"),
        norm("h.{i}.ln_1", "layers/{i}/attention_norm"),
        linear_io(
            "h.{i}.attn.c_attn",
            "layers/{i}/attention/query",
            "layers/{i}/attention/key",
            "layers/{i}/attention/value",
        ),
        linear_io("h.{i}.attn.c_proj", "layers/{i}/attention/out"),
        buffer("h.{i}.attn.{a:bias|masked_bias}"),
        norm("h.{i}.ln_2", "layers/{i}/mlp_norm"),
        linear_io("h.{i}.mlp.c_fc", "layers/{i}/mlp/up"),
        linear_io("h.{i}.mlp.c_proj", "layers/{i}/mlp/down"),
        norm("ln_f", "norm"),
    ),
    heads=(
        linear("lm_head", "lm_head"),
        linear("score", "score"),
        linear("classifier", "classifier"),
        linear("qa_outputs", "span"),
    ),
    ties=(("^wte.weight", "lm_head.weight"),),
)

FAMILY = Family("gpt2", ("gpt2",), (HUB, linen(HUB)))
