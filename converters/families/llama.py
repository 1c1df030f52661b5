"""Llama and the decoders built like it; those with other names or norms apart."""

from mda_jax.converters.dialects import (
    TORCH,
    Dialect,
    Family,
    Part,
    buffer,
    embed,
    experts,
    linear,
    linen,
    rms_norm,
)


_ATTENTION = (
    linear(
        "layers.{i}.self_attn.{a:q|k|v|o}_proj",
        "layers/{i}/attention/{a:query|key|value|out}",
    ),
    rms_norm(
        "layers.{i}.self_attn.{a:q|k}_norm", "layers/{i}/attention/{a:query|key}_norm"
    ),
)
_MLP = linear("layers.{i}.mlp.{a:gate|up|down}_proj", "layers/{i}/mlp/{a}")
_NORMS = (
    rms_norm("layers.{i}.input_layernorm", "layers/{i}/attention_norm"),
    rms_norm("layers.{i}.post_attention_layernorm", "layers/{i}/mlp_norm"),
)
_NORMS_AFTER = (
    rms_norm("layers.{i}.input_layernorm", "layers/{i}/attention_norm"),
    rms_norm("layers.{i}.post_attention_layernorm", "layers/{i}/post_attention_norm"),
    rms_norm("layers.{i}.pre_feedforward_layernorm", "layers/{i}/mlp_norm"),
    rms_norm("layers.{i}.post_feedforward_layernorm", "layers/{i}/post_mlp_norm"),
)
_FUSED = (
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
)
_EXPERTS_OF_MIXTRAL = (
    linear("layers.{i}.block_sparse_moe.gate", "layers/{i}/mlp/router"),
    linear(
        "layers.{i}.block_sparse_moe.experts.{e*}.{a:w1|w2|w3}",
        "layers/{i}/mlp/experts/{a:gate|down|up}",
    ),
)
_EXPERTS_OF_QWEN = (
    linear("layers.{i}.mlp.gate", "layers/{i}/mlp/router"),
    linear(
        "layers.{i}.mlp.experts.{e*}.{a:gate|up|down}_proj",
        "layers/{i}/mlp/experts/{a}",
    ),
)
_EXPERTS_IN_MEMORY = (
    linear("layers.{i}.mlp.gate", "layers/{i}/mlp/router"),
    experts(
        "layers.{i}.mlp.experts.gate_up_proj",
        "layers/{i}/mlp/experts/gate",
        "layers/{i}/mlp/experts/up",
    ),
    experts("layers.{i}.mlp.experts.down_proj", "layers/{i}/mlp/experts/down"),
)


def _decoder(name: str, *layers: Part) -> Dialect:
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


HUB = _decoder("hub", *_ATTENTION, _MLP, *_NORMS)
GEMMA2 = _decoder("hub", *_ATTENTION, _MLP, *_NORMS_AFTER)
PHI3 = _decoder("hub", *_FUSED, *_NORMS)
MIXTRAL = _decoder("hub", *_ATTENTION, *_EXPERTS_OF_MIXTRAL, *_NORMS)
QWEN3_MOE = _decoder("hub", *_ATTENTION, _MLP, *_EXPERTS_OF_QWEN, *_NORMS)
EXPERTS_IN_MEMORY = _decoder(
    "transformers", *_ATTENTION, _MLP, *_EXPERTS_IN_MEMORY, *_NORMS
)

FAMILIES = (
    Family("llama", ("llama", "mistral", "qwen2", "qwen3", "gemma"), (HUB, linen(HUB))),
    Family("llama", ("gemma2", "gemma3_text"), (GEMMA2,)),
    Family("llama", ("phi3",), (PHI3,)),
    Family("llama", ("mixtral",), (MIXTRAL, EXPERTS_IN_MEMORY)),
    Family("llama", ("qwen3_moe",), (QWEN3_MOE, EXPERTS_IN_MEMORY)),
)
