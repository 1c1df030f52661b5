"""Llama and the decoders built like it: names, layouts, experts and heads of files."""

import hashlib

import numpy as np
import pytest
from parity import in_memory, random_bits
from stored import stored, weights
from torch_models import CASES, build, saved

from mda_jax.converters import ConversionError, load
from mda_jax.converters.convert import in_dialect, leaves, to_flax, to_torch
from mda_jax.converters.families import phi3
from mda_jax.converters.models.phi3 import sizes
from mda_jax.converters.translate import Arrays, Translated, flat


FAMILIES = {
    "llama": ("llama", "mistral", "qwen2", "qwen3", "gemma"),
    "gemma2": ("gemma2", "gemma3_text"),
    "phi3": ("phi3",),
    "mixtral": ("mixtral",),
    "qwen3_moe": ("qwen3_moe",),
}
KINDS = [kind for kinds in FAMILIES.values() for kind in kinds]
MODELS = [case for case, fields in CASES.items() if fields["model_type"] in KINDS]


@pytest.fixture(scope="module")
def random_state(tmp_path_factory):
    """Random bits under the names that `save_pretrained` writes for a case."""
    folder = tmp_path_factory.mktemp("hub")

    def state(case, dtype="float32"):
        tensors = load(saved(case, folder)).tensors
        return random_bits({n: tensors.spec(n).shape for n in tensors}, dtype)

    return state


def assert_same_bits(one, other):
    """Names, shapes, types and bytes of two checkpoints."""
    a, b = one.tensors, other.tensors
    assert set(a) == set(b)
    for name in a:
        assert a.spec(name) == b.spec(name)
        assert np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes(), name


@pytest.mark.parametrize("case", MODELS)
def test_every_bit_comes_back(case, random_state):
    dtype = ("bfloat16", "float32")[MODELS.index(case) % 2]
    opened = in_memory(random_state(case, dtype), CASES[case])
    assert opened.naming.dialect == "hub"
    assert CASES[case]["model_type"] in FAMILIES[opened.family]
    assert_same_bits(to_torch(to_flax(opened), like=opened), opened)


@pytest.mark.parametrize(
    "case", ["llama", "qwen3", "gemma3", "phi3", "mixtral", "qwen3_moe"]
)
def test_the_family_is_told_without_a_config(case, random_state):
    state = random_state(case, "bfloat16")
    family = in_memory(state, {}).family
    assert CASES[case]["model_type"] in FAMILIES[family]


@pytest.mark.parametrize(
    "case", ["mixtral", "qwen3_moe", "qwen3_moe_dense_layer", "qwen3_moe_sparse_step"]
)
def test_experts_in_the_memory_of_transformers(case, tmp_path):
    """What a file of a state dict has is what `save_pretrained` writes."""
    state = {name: x.numpy() for name, x in build(case).state_dict().items()}
    opened = in_memory(state, CASES[case])
    assert opened.dialect == "transformers5"
    files = load(saved(case, tmp_path))
    assert_same_bits(to_torch(opened, dialect="hub"), files)
    assert_same_bits(to_torch(to_flax(opened), like=opened), opened)


def test_unequal_parts_of_a_fused_matrix():
    """Of 3 heads of queries and one of keys and values: 3, 1 and 1 fifths."""
    config = {"model_type": "phi3", "num_attention_heads": 3, "num_key_value_heads": 1}
    qkv = np.arange(40 * 24, dtype=np.float32).reshape(40, 24)
    gate_up = np.arange(14 * 24, dtype=np.float32).reshape(14, 24)
    state = {"self_attn.qkv_proj": qkv, "mlp.gate_up_proj": gate_up}
    state = {f"model.layers.1.{name}.weight": x for name, x in state.items()}
    rules = phi3.HUB.rules("model.", sizes(config))
    ours = Translated(Arrays(state), rules)
    want = {
        "attention/query": qkv[:24],
        "attention/key": qkv[24:32],
        "attention/value": qkv[32:],
        "mlp/gate": gate_up[:7],
        "mlp/up": gate_up[7:],
    }
    assert set(ours) == {f"layers/1/{name}/kernel" for name in want}
    for name, rows in want.items():
        np.testing.assert_array_equal(ours[f"layers/1/{name}/kernel"], rows.T)


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
    assert_same_bits(to_torch(back, dialect="hub"), opened)


@pytest.mark.parametrize("layout", ["scanned", "head_split"])
@pytest.mark.parametrize("case", ["llama_biased", "gemma2", "phi3", "mixtral"])
def test_layouts_of_our_own(case, layout, random_state):
    state = random_state(case)
    opened = in_memory(state, CASES[case])
    tree = to_flax(opened, layout)
    kernel = tree["layers"] if layout == "scanned" else tree["layers"]["0"]
    heads = {"scanned": (2, 32, 16), "head_split": (32, 2, -1)}[layout]
    shape = kernel["attention"]["key"]["kernel"].shape
    assert shape[:2] == heads[:2]
    assert_same_bits(to_torch(tree, like=opened, layout=layout), opened)


def test_old_buffers_are_carried_along(random_state):
    state = random_state("llama_base")
    buffers = {
        f"layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)
        for i in range(2)
    }
    opened = in_memory(state | buffers, CASES["llama_base"])
    assert sorted(leaves(opened).left) == sorted(buffers)


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
def test_damage_is_named(case, damage, message, random_state):
    state = random_state(case)
    with pytest.raises(ConversionError, match=message):
        leaves(in_memory(damage(state), CASES[case]))


def test_a_missing_layer_of_experts_cannot_be_stacked(random_state):
    """Layers of two kinds are no stack; the message names the layer that lacks it."""
    state = random_state("qwen3_moe_dense_layer")
    opened = in_memory(state, CASES["qwen3_moe_dense_layer"])
    with pytest.raises(ConversionError, match=r"layers/0/mlp/.*missing"):
        in_dialect(opened, "scanned")
