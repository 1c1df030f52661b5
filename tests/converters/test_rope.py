"""Rotary embeddings turn by the angles of transformers, whatever their scaling."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from mda_jax.converters import ConversionError
from mda_jax.converters.models.gemma2 import Gemma3
from mda_jax.converters.models.llama import Llama
from mda_jax.converters.models.phi3 import Phi3
from mda_jax.converters.models.rope import turned


SIZES = {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 64}
LLAMA3 = {"low_freq_factor": 1.5, "high_freq_factor": 4, "factor": 8}
YARN = {"rope_type": "yarn", "factor": 4.0}
LONG = {
    "short_factor": [1 + 0.1 * i for i in range(12)],
    "long_factor": [2 + 0.3 * i for i in range(12)],
}
SCALINGS = {
    "none": {},
    "theta": {"rope_theta": 5e5},
    "linear": {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 3.0}},
    "llama3": {
        "rope_theta": 5e5,
        "rope_scaling": LLAMA3
        | {"rope_type": "llama3", "original_max_position_embeddings": 16},
    },
    "llama3 of today": {
        "rope_parameters": LLAMA3
        | {
            "rope_type": "llama3",
            "rope_theta": 1e3,
            "original_max_position_embeddings": 32,
        },
    },
    "yarn": {"rope_scaling": YARN | {"original_max_position_embeddings": 512}},
    "yarn, no lengths": {"rope_scaling": YARN},
    "yarn, stated": {
        "rope_scaling": YARN
        | {"attention_factor": 1.3, "beta_fast": 4.0, "truncate": False}
    },
    "yarn, two scales": {"rope_scaling": YARN | {"mscale": 0.7, "mscale_all_dim": 1.4}},
    "longrope": {
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1 + 0.1 * i for i in range(16)],
            "long_factor": [2 + 0.3 * i for i in range(16)],
            "original_max_position_embeddings": 32,
            "factor": 2.0,
        }
    },
}
PHI3 = {
    "part": {"partial_rotary_factor": 0.75},
    "part of today": {"rope_parameters": {"partial_rotary_factor": 0.5}},
    "su": {
        "rope_scaling": LONG | {"type": "su"},
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 32,
    },
    "yarn": {
        "rope_scaling": LONG | {"type": "yarn"},
        "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 32,
    },
}
GEMMA3 = {
    "older": {
        "rope_theta": 5e4,
        "rope_local_base_freq": 500.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
    },
    "defaults": {},
    "today": {
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {
                "rope_type": "linear",
                "factor": 8.0,
                "rope_theta": 1000.0,
            },
        }
    },
}


def assert_same_turns(rotary, module, length, *kind):
    """Cosines and sines within some roundings of the greatest angle, in radians."""
    with torch.no_grad():
        waves = module(torch.zeros(1), torch.arange(length)[None], *kind)
    got = rotary.turns(jnp.arange(length), length)
    for ours, theirs in zip(got, waves, strict=True):
        half = theirs[0, :, : ours.shape[1]].numpy()
        np.testing.assert_allclose(ours, half, rtol=0, atol=4 * length * 2**-23)


@pytest.mark.parametrize("length", [20, 90])
@pytest.mark.parametrize("fields", SCALINGS.values(), ids=SCALINGS)
def test_every_scaling(fields, length):
    theirs = transformers.LlamaConfig.from_dict({**SIZES, **fields})
    ours = Llama.read({"model_type": "llama", **SIZES, **fields})
    module = LlamaRotaryEmbedding(theirs)
    assert_same_turns(ours.rotary("full_attention"), module, length)


def _today(fields):
    """The fields with `longrope` for `su`, which transformers 5 does not read."""
    scaling = fields.get("rope_scaling", {})
    if scaling.get("type") != "su":
        return fields
    return fields | {"rope_scaling": scaling | {"type": "longrope"}}


@pytest.mark.parametrize("length", [20, 90])
@pytest.mark.parametrize("fields", PHI3.values(), ids=PHI3)
def test_parts_of_heads(fields, length):
    theirs = transformers.Phi3Config.from_dict({**SIZES, **_today(fields)})
    ours = Phi3.read({"model_type": "phi3", **SIZES, **fields})
    module = Phi3RotaryEmbedding(theirs)
    assert_same_turns(ours.rotary("full_attention"), module, length)


@pytest.mark.parametrize("kind", ["sliding_attention", "full_attention"])
@pytest.mark.parametrize("fields", GEMMA3.values(), ids=GEMMA3)
def test_one_embedding_for_each_kind_of_layer(fields, kind):
    sizes = SIZES | {"head_dim": 32, "num_hidden_layers": 6}
    theirs = transformers.Gemma3TextConfig.from_dict({**sizes, **fields})
    ours = Gemma3.read({"model_type": "gemma3_text", **sizes, **fields})
    assert_same_turns(ours.rotary(kind), Gemma3RotaryEmbedding(theirs), 20, kind)


def test_numbers_beyond_the_waves_stay():
    x = jnp.arange(24.0).reshape(1, 2, 2, 6)
    angle = np.float32(0.3)
    waves = jnp.full((2, 2), np.cos(angle)), jnp.full((2, 2), np.sin(angle))
    got = np.asarray(turned(x, waves))
    x = np.asarray(x)
    pairs = (x[..., :2] + 1j * x[..., 2:4]) * np.exp(1j * angle)
    np.testing.assert_allclose(got[..., :2] + 1j * got[..., 2:4], pairs, rtol=1e-6)
    np.testing.assert_array_equal(got[..., 4:], x[..., 4:])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope_scaling": {"rope_type": "proportional"}}, "proportional"),
        ({"rope_scaling": {"type": "linear"}}, "factor' is nothing"),
        ({"rope_scaling": {"type": "linear", "factor": 2, "new": 1}}, "new"),
        ({"rope_parameters": {"mrope_section": [1]}}, "mrope_section"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_other_scalings_are_refused(fields, message):
    with pytest.raises(ConversionError, match=message):
        Llama.read({"model_type": "llama", **SIZES, **fields})


def test_parts_of_heads_are_refused_where_they_are_not_known():
    fields = {"rope_parameters": {"partial_rotary_factor": 0.5}}
    config = Llama.read({"model_type": "llama", **SIZES, **fields})
    with pytest.raises(ConversionError, match=r"partial_rotary_factor.*0\.5"):
        config.rotary("full_attention")
