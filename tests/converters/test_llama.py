"""Llama and the decoders built like it: names, layouts, experts and heads of files."""

import hashlib

import numpy as np
import pytest
from parity import assert_every_bit_comes_back, in_memory, random_bits
from stored import stored, weights
from torch_models import CASES, build

from mda_jax.converters import ConversionError
from mda_jax.converters.checkpoint import in_dialect, leaves, to_flax, to_torch
from mda_jax.converters.translate import flat


FAMILIES = {
    "llama": ("llama", "mistral", "qwen2", "qwen3", "gemma"),
    "gemma2": ("gemma2", "gemma3_text"),
    "phi3": ("phi3",),
    "mixtral": ("mixtral",),
    "qwen3_moe": ("qwen3_moe",),
}
KINDS = [kind for kinds in FAMILIES.values() for kind in kinds]
MODELS = [case for case, fields in CASES.items() if fields["model_type"] in KINDS]


def hub_shapes(case):
    """Shapes by the names in files, where experts lie one by one and ties once."""
    found = {}
    fields = CASES[case]
    for name, tensor in build(case).state_dict().items():
        shape = tuple(tensor.shape)
        if name == "lm_head.weight" and fields.get(
            "tie_word_embeddings", "gem" in case
        ):
            continue
        if ".mlp.experts." in name:
            before, kind = name.split(".mlp.experts.")
            found |= _experts(before, kind, shape, fields["model_type"])
        elif fields["model_type"] == "mixtral":
            found[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = shape
        else:
            found[name] = shape
    return found


def _experts(before, kind, shape, model_type):
    number, out, inputs = shape
    if model_type == "mixtral":
        where, words = "block_sparse_moe", {"gate": "w1", "down": "w2", "up": "w3"}
    else:
        where, words = "mlp", {k: f"{k}_proj" for k in ("gate", "down", "up")}
    one = (out // 2, inputs) if kind == "gate_up_proj" else (out, inputs)
    return {
        f"{before}.{where}.experts.{e}.{words[k]}.weight": one
        for e in range(number)
        for k in kind.removesuffix("_proj").split("_")
    }


@pytest.mark.parametrize("case", MODELS)
def test_every_bit_comes_back(case):
    dtype = ("bfloat16", "float32")[MODELS.index(case) % 2]
    opened = in_memory(random_bits(hub_shapes(case), dtype), CASES[case])
    assert opened.naming.dialect == "hub"
    assert CASES[case]["model_type"] in FAMILIES[opened.family]
    assert_every_bit_comes_back(opened)


@pytest.mark.parametrize("case", MODELS)
def test_the_family_is_told_without_a_config(case):
    state = random_bits(hub_shapes(case), "bfloat16")
    family = in_memory(state, {}).family
    assert CASES[case]["model_type"] in FAMILIES[family]


@pytest.mark.parametrize(
    "case", ["mixtral", "qwen3_moe", "qwen3_moe_dense_layer", "qwen3_moe_sparse_step"]
)
def test_experts_in_the_memory_of_transformers(case, tmp_path):
    """What a file of a state dict has is what `save_pretrained` writes."""
    from mda_jax.converters import load
    from torch_models import saved

    state = {name: x.numpy() for name, x in build(case).state_dict().items()}
    opened = in_memory(state, CASES[case])
    assert opened.dialect == "transformers"
    assert_every_bit_comes_back(opened)
    files = load(saved(case, tmp_path))
    written = to_torch(opened, dialect="hub").tensors
    assert set(written) == set(files.tensors)
    for name in written:
        np.testing.assert_array_equal(written[name], files.tensors[name])


def test_unequal_parts_of_a_fused_matrix():
    """Of 3 heads of queries and one of keys and values: 3, 1 and 1 fifths."""
    fields = CASES["phi3"] | {
        "hidden_size": 24,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
    }
    state = hub_shapes("phi3")
    qkv = np.arange(40 * 24, dtype=np.float32).reshape(40, 24)
    sizes = {
        n: tuple(24 if s == 32 else s for s in shape) for n, shape in state.items()
    }
    state = random_bits(sizes, "float32")
    state |= {f"model.layers.{i}.self_attn.qkv_proj.weight": qkv for i in (0, 1)}
    ours = leaves(in_memory(state, fields))
    got = [ours[f"layers/1/attention/{a}/kernel"] for a in ("query", "key", "value")]
    for kernel, rows in zip(got, (qkv[:24], qkv[24:32], qkv[32:]), strict=True):
        np.testing.assert_array_equal(kernel, rows.T)
    gate = state["model.layers.0.mlp.gate_up_proj.weight"][:48]
    np.testing.assert_array_equal(ours["layers/0/mlp/gate/kernel"], gate.T)


@pytest.mark.parametrize("case", ["llama", "mistral", "gemma"])
def test_the_tree_of_the_flax_models_of_transformers(case):
    model = stored("hf_flax")[case]
    opened = in_memory(weights(model), model["config"])
    tree = flat(to_flax(opened, "hf_flax"))
    digests = {
        name: [list(x.shape), hashlib.sha256(np.ascontiguousarray(x)).hexdigest()[:16]]
        for name, x in tree.items()
    }
    assert digests == model["flax"]
    back = in_memory(tree, model["config"])
    assert back.dialect == "hf_flax"
    hub = to_torch(back, dialect="hub").tensors
    assert set(hub) == set(weights(model))
    for name, x in weights(model).items():
        assert hub[name].tobytes() == x.tobytes()


@pytest.mark.parametrize("layout", ["scanned", "head_split"])
@pytest.mark.parametrize("case", ["llama_biased", "gemma2", "phi3", "mixtral"])
def test_layouts_of_our_own(case, layout):
    state = random_bits(hub_shapes(case), "float32")
    opened = in_memory(state, CASES[case])
    tree = to_flax(opened, layout)
    kernel = tree["layers"] if layout == "scanned" else tree["layers"]["0"]
    heads = {"scanned": (2, 32, 16), "head_split": (32, 2, -1)}[layout]
    shape = kernel["attention"]["key"]["kernel"].shape
    assert shape[:2] == heads[:2]
    back = to_torch(tree, like=opened, layout=layout)
    for name, x in state.items():
        assert back.tensors[name].tobytes() == x.tobytes()


def test_old_buffers_are_carried_along():
    state = random_bits(hub_shapes("llama_base"), "float32")
    buffers = {
        f"layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)
        for i in range(2)
    }
    opened = in_memory(state | buffers, CASES["llama_base"])
    ours = assert_every_bit_comes_back(opened)
    assert sorted(ours.left) == sorted(buffers)


def without(name):
    return lambda state: {n: x for n, x in state.items() if n != name}


def renamed(old, new):
    return lambda state: {n.replace(old, new): x for n, x in state.items()}


def cut(name):
    return lambda state: state | {name: state[name][:-1]}


@pytest.mark.parametrize(
    ("case", "damage", "message"),
    [
        ("llama", without("model.norm.weight"), r"norm/scale.*missing"),
        ("llama", without("lm_head.weight"), r"lm_head/kernel.*missing"),
        ("llama_biased", without("model.layers.1.self_attn.o_proj.bias"), "missing"),
        ("qwen3", without("model.layers.0.self_attn.q_norm.weight"), "missing"),
        ("llama", renamed("k_proj", "c_proj"), r"k_proj|\{i\}"),
        ("llama", cut("model.layers.0.self_attn.k_proj.weight"), "has shape"),
        ("phi3", cut("model.layers.0.self_attn.qkv_proj.weight"), "ratios"),
        (
            "mixtral",
            without("model.layers.1.block_sparse_moe.experts.2.w3.weight"),
            r"experts\.2\.w3\.weight' is missing",
        ),
        (
            "qwen3_moe",
            without("model.layers.0.mlp.experts.3.down_proj.weight"),
            "has shape",
        ),
        ("qwen3_moe", cut("model.layers.0.mlp.experts.1.up_proj.weight"), "one shape"),
        ("gemma2", without("model.layers.0.pre_feedforward_layernorm.weight"), "miss"),
    ],
)
def test_damage_is_named(case, damage, message):
    state = random_bits(hub_shapes(case), "float32")
    with pytest.raises(ConversionError, match=message):
        leaves(in_memory(damage(state), CASES[case]))


def test_a_missing_layer_of_experts_cannot_be_stacked():
    """Layers of two kinds are no stack; the message names the layer that lacks it."""
    state = random_bits(hub_shapes("qwen3_moe_dense_layer"), "float32")
    opened = in_memory(state, CASES["qwen3_moe_dense_layer"])
    with pytest.raises(ConversionError, match=r"layers/0/mlp/.*missing"):
        in_dialect(opened, "scanned")
