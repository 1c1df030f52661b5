"""T5, T5 1.1 and Flan-T5: an encoder and a decoder, or the encoder alone."""

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


def _stack(name: str, mlp: int) -> tuple[Part, ...]:
    """The encoder or the decoder, whose MLP has this number in a block."""
    block, layer = f"{name}.block.{{i}}.layer", f"{name}/layers/{{i}}"
    first = f"{name}.block.0.layer.0.SelfAttention"
    return (
        embed(f"{first}.relative_attention_bias", f"{name}/relative_bias"),
        linear(
            f"{block}.0.SelfAttention.{{a:q|k|v|o}}",
            f"{layer}/attention/{{a:query|key|value|out}}",
        ),
        rms_norm(f"{block}.0.layer_norm", f"{layer}/attention_norm"),
        linear(
            f"{block}.{mlp}.DenseReluDense.{{a:wi_0|wi_1|wi|wo}}",
            f"{layer}/mlp/{{a:gate|gated|up|down}}",
        ),
        rms_norm(f"{block}.{mlp}.layer_norm", f"{layer}/mlp_norm"),
        rms_norm(f"{name}.final_layer_norm", f"{name}/norm"),
    )


_CROSS = "decoder.block.{i}.layer.1"
HUB = Dialect(
    "hub",
    TORCH,
    backbone=(
        embed("shared", "shared"),
        *_stack("encoder", mlp=1),
        *_stack("decoder", mlp=2),
        linear(
            _CROSS + ".EncDecAttention.{a:q|k|v|o}",
            "decoder/layers/{i}/cross_attention/{a:query|key|value|out}",
        ),
        rms_norm(_CROSS + ".layer_norm", "decoder/layers/{i}/cross_attention_norm"),
        # Files of the first T5 have this, but no class of transformers reads it.
        buffer(
            "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
        ),
        linear("lm_head", "lm_head"),
    ),
    ties=(
        (
            "shared.weight",
            "encoder.embed_tokens.weight",
            "decoder.embed_tokens.weight",
            "lm_head.weight",
        ),
    ),
)

FAMILY = Family("t5", ("t5",), (HUB, linen(HUB)))
