"""Configs of decoders as they are on the hub, and what is refused in them."""

import jax
import pytest
from flax import nnx

from mda_jax.converters import ConversionError
from mda_jax.converters.models import gemma2, llama, mixtral, phi3, qwen3_moe
from mda_jax.converters.models.rope import Default, Llama3, LongRope


MODULES = {
    "gemma2": gemma2,
    "gemma3_text": gemma2,
    "phi3": phi3,
    "mixtral": mixtral,
    "qwen3_moe": qwen3_moe,
}
COMMON = {
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
}
# The numbers of published checkpoints, with the fields that their files have.
HUB = {
    "llama 1": COMMON
    | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "max_position_embeddings": 2048,
        "max_sequence_length": 2048,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "llama 3.2": COMMON
    | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "eos_token_id": [128001, 128008, 128009],
        "head_dim": 64,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "num_attention_heads": 32,
        "num_hidden_layers": 16,
        "num_key_value_heads": 8,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 32.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
        "vocab_size": 128256,
    },
    "mistral nemo": COMMON
    | {
        "model_type": "mistral",
        "architectures": ["MistralForCausalLM"],
        "head_dim": 128,
        "hidden_size": 5120,
        "intermediate_size": 14336,
        "max_position_embeddings": 1024000,
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 131072,
    },
    "qwen 2.5": COMMON
    | {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "max_position_embeddings": 131072,
        "max_window_layers": 21,
        "num_attention_heads": 12,
        "num_hidden_layers": 28,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000,
        "sliding_window": 4096,
        "tie_word_embeddings": False,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "qwen 3": COMMON
    | {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "head_dim": 128,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
    "gemma": COMMON
    | {
        "model_type": "gemma",
        "architectures": ["GemmaForCausalLM"],
        "attention_bias": False,
        "head_dim": 256,
        "hidden_act": "gelu",
        "hidden_activation": None,
        "hidden_size": 2048,
        "intermediate_size": 16384,
        "max_position_embeddings": 8192,
        "num_attention_heads": 8,
        "num_hidden_layers": 18,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "vocab_size": 256000,
    },
    "gemma 2": COMMON
    | {
        "model_type": "gemma2",
        "architectures": ["Gemma2ForCausalLM"],
        "attention_bias": False,
        "attn_logit_softcapping": 50.0,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": 30.0,
        "head_dim": 128,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 4608,
        "intermediate_size": 36864,
        "max_position_embeddings": 8192,
        "num_attention_heads": 32,
        "num_hidden_layers": 46,
        "num_key_value_heads": 16,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 144,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
        "sliding_window_size": 4096,
        "vocab_size": 256000,
        "_attn_implementation": "eager",
    },
    "gemma 3": COMMON
    | {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        "attention_bias": False,
        "attn_logit_softcapping": None,
        "cache_implementation": "hybrid",
        "final_logit_softcapping": None,
        "head_dim": 256,
        "hidden_activation": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "intermediate_size": 6912,
        "max_position_embeddings": 32768,
        "num_attention_heads": 4,
        "num_hidden_layers": 26,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": 512,
        "sliding_window_pattern": 6,
        "vocab_size": 262144,
    },
    "phi 3": COMMON
    | {
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "embd_pdrop": 0.0,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 32000,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "sliding_window": 2047,
        "tie_word_embeddings": False,
        "vocab_size": 32064,
    },
    "phi 4 mini": COMMON
    | {
        "model_type": "phi3",
        "architectures": ["Phi3ForCausalLM"],
        "attention_bias": False,
        "embd_pdrop": 0.0,
        "full_attn_mod": 1,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "num_attention_heads": 24,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096,
        "pad_token_id": 199999,
        "partial_rotary_factor": 0.75,
        "resid_pdrop": 0.0,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "long_factor": [1.0] * 48,
            "short_factor": [1.0] * 48,
            "type": "longrope",
        },
        "rope_theta": 10000.0,
        "sliding_window": 262144,
        "tie_word_embeddings": True,
        "vocab_size": 200064,
    },
    "mixtral": COMMON
    | {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768,
        "num_attention_heads": 32,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": 32000,
    },
    "qwen 3 moe": COMMON
    | {
        "model_type": "qwen3_moe",
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 40960,
        "max_window_layers": 48,
        "mlp_only_layers": [],
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 48,
        "num_key_value_heads": 4,
        "output_router_logits": False,
        "qkv_bias": False,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001,
        "shared_expert_intermediate_size": 0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "use_qk_norm": True,
        "use_sliding_window": False,
        "vocab_size": 151936,
    },
}
# Billions of parameters, as far as they are published.
BILLIONS = {
    "llama 1": 6.74,
    "llama 3.2": 1.24,
    "mistral nemo": 12.25,
    "qwen 2.5": 1.78,
    "qwen 3": 0.596,
    "gemma": 2.51,
    "gemma 2": 27.2,
    "gemma 3": 1.00,
    "phi 3": 3.82,
    "phi 4 mini": 3.84,
    "mixtral": 46.7,
    "qwen 3 moe": 30.5,
}


def module(config):
    return MODULES.get(config["model_type"], llama)


def read(name, **fields):
    return module(HUB[name]).MODELS.read(HUB[name] | fields)


@pytest.mark.parametrize("name", HUB)
def test_published_models_have_their_size(name):
    """Counted from models of one and two layers, as all layers are alike."""

    def count(layers):
        config = HUB[name] | {"num_hidden_layers": layers}
        model = nnx.eval_shape(lambda: module(config).build(config, {}, nnx.Rngs(0)))
        return sum(x.size for x in jax.tree.leaves(nnx.state(model)))

    layers = HUB[name]["num_hidden_layers"]
    total = count(1) + (layers - 1) * (count(2) - count(1))
    assert abs(total / 1e9 - BILLIONS[name]) <= 0.005 * BILLIONS[name]


def test_numbers_of_heads():
    config = HUB["mistral nemo"]
    assert llama.sizes(config) == {"heads": 32, "kv_heads": 8}
    assert llama.sizes(HUB["llama 1"]) == {"heads": 32, "kv_heads": 32}
    assert read("mistral nemo").depth == 128
    assert read("llama 1").depth == 128


def test_where_layers_look():
    slides = [kind == "sliding_attention" for kind in read("gemma 3").kinds]
    assert [i for i, s in enumerate(slides) if not s] == [5, 11, 17, 23]
    assert read("gemma 3").windows["sliding_attention"] == 512
    slides = [kind == "sliding_attention" for kind in read("gemma 2").kinds]
    assert slides == [True, False] * 23
    assert set(read("qwen 2.5").kinds) == {"full_attention"}
    kinds = read("qwen 2.5", use_sliding_window=True).kinds
    assert kinds == ("full_attention",) * 21 + ("sliding_attention",) * 7
    assert set(read("qwen 3 moe", sliding_window=64).kinds) == {"full_attention"}
    used = read("qwen 3 moe", sliding_window=64, use_sliding_window=True)
    assert set(used.kinds) == {"sliding_attention"}
    assert set(read("phi 3").kinds) == {"sliding_attention"}


def test_what_scores_are_scaled_by():
    assert read("gemma 2").scale == 144**-0.5
    assert read("gemma 2").caps == (50.0, 30.0)
    assert read("gemma").activation == "gelu_pytorch_tanh"
    assert read("gemma 3").embedding_scale == 1152**0.5


def test_how_heads_turn():
    assert isinstance(read("llama 3.2").rotary("full_attention").scaling, Llama3)
    gemma = read("gemma 3")
    full, near = map(gemma.rotary, ("full_attention", "sliding_attention"))
    assert (full.theta, near.theta) == (1e6, 1e4)
    assert isinstance(near.scaling, Default)
    phi = read("phi 4 mini").rotary("sliding_attention")
    assert phi.size == 96
    assert isinstance(phi.scaling, LongRope)
    assert phi.scaling.original_max_position_embeddings == 4096


def test_which_layers_have_experts():
    dense = {"mlp_only_layers": [3], "decoder_sparse_step": 2}
    config = read("qwen 3 moe", **dense)
    assert [i for i in range(8) if config.routing(i)] == [1, 5, 7]
    assert read("mixtral").routing(0).experts == 8


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("llama 1", {"model_type": "olmo"}, "'model_type' is 'olmo'"),
        ("llama 1", {"sliding_window": 64}, "sliding_window"),
        ("llama 1", {"hidden_act": "gelu_10"}, "activations"),
        ("llama 1", {"quantization_config": {}}, "quantization_config"),
        ("qwen 2.5", {"use_mrope": True}, "use_mrope"),
        ("qwen 2.5", {"attention_bias": True}, "attention_bias"),
        ("gemma", {"use_bidirectional_attention": True}, "bidirectional"),
        ("gemma 3", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ("phi 4 mini", {"lm_head_bias": True}, "lm_head_bias"),
        ("qwen 3 moe", {"shared_expert_intermediate_size": 8}, "shared_expert"),
        ("gemma 3", {"layer_types": ["chunked_attention"]}, "layer_types"),
    ],
)
def test_what_models_do_not_do_is_refused(name, fields, message):
    with pytest.raises(ConversionError, match=message):
        module(HUB[name]).MODELS.read(HUB[name] | fields)


@pytest.mark.parametrize("field", ["num_attention_heads", "vocab_size"])
def test_sizes_are_positive(field):
    with pytest.raises(ConversionError, match=f"'{field}' is 0; it must be at least 1"):
        llama.sizes(HUB["llama 1"] | {field: 0})


def test_kinds_of_layers_that_cannot_be():
    with pytest.raises(ConversionError, match="2 entries"):
        _ = read("gemma 3", layer_types=["full_attention"] * 2).kinds
    kinds = ["sliding_attention"] * 28
    with pytest.raises(ConversionError, match="how far they look"):
        _ = read("qwen 3", layer_types=kinds).kinds
