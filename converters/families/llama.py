"""Llama, Mistral, Qwen 2 and 3, and Gemma: decoders with the same names."""

from mda_jax.converters.dialects import (
    TORCH,
    Dialect,
    Family,
    Part,
    buffer,
    embed,
    linear,
    linen,
    rms_norm,
)


ATTENTION = linear(
    "layers.{i}.self_attn.{a:q|k|v|o}_proj",
    "layers/{i}/attention/{a:query|key|value|out}",
)
NORMS_OF_HEADS = rms_norm(
    "layers.{i}.self_attn.{a:q|k}_norm", "layers/{i}/attention/{a:query|key}_norm"
)
MLP = linear("layers.{i}.mlp.{a:gate|up|down}_proj", "layers/{i}/mlp/{a}")
NORMS = (
    rms_norm("layers.{i}.input_layernorm", "layers/{i}/attention_norm"),
    rms_norm("layers.{i}.post_attention_layernorm", "layers/{i}/mlp_norm"),
)


def decoder(name: str, *layers: Part) -> Dialect:
    """Layers of these modules between the embedding and the heads."""
    return Dialect(
        name,
        TORCH,
        prefixes=("model.", ""),
        backbone=(
            embed("embed_tokens", "embed"),
            *layers,
            rms_norm("norm", "norm"),
            buffer("layers.{i}.self_attn.rotary_emb.inv_freq"),
            buffer("rotary_emb.inv_freq"),
        ),
        heads=(linear("lm_head", "lm_head"), linear("score", "classifier")),
        ties=(("^embed_tokens.weight", "lm_head.weight"),),
    )


HUB = decoder("hub", ATTENTION, NORMS_OF_HEADS, MLP, *NORMS)

FAMILY = Family(
    "llama", ("llama", "mistral", "qwen2", "qwen3", "gemma"), (HUB, linen(HUB))
)
