"""T5: every bit comes back, and JAX says and writes what torch does."""

import hashlib
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from parity import (
    assert_every_bit_comes_back,
    assert_says,
    in_memory,
    random_bits,
    said,
)
from stored import inputs, stored, weights
from torch_models import CASES, build as build_anew, slow_but
from transformers.models.t5.modeling_t5 import T5Attention

from mda_jax.converters import ConversionError, build, in_dialect
from mda_jax.converters.convert import leaves
from mda_jax.converters.models import t5


MODELS = """t5 t5_base t5_wide_heads t5_gated_tied t5_gated_untied t5_encoder
    t5_encoder_wide""".split()
TIED = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
NAMES = {
    "encoded": ["encoder_last_hidden_state"],
    "hidden": ["decoder_last_hidden_state"],
    "logits": ["logits"],
}
MASK = np.array([[1] * 23, [1] * 4 + [0] * 19, [0] * 9 + [1] * 14])
build_torch = cache(build_anew)


def checkpoint(case):
    """A model as its file has it."""
    tied = CASES[case].get("tie_word_embeddings", True)
    aliases = (*TIED, "lm_head.weight") if tied else TIED
    tensors = build_torch(case).state_dict().items()
    return in_memory(
        {n: x.numpy() for n, x in tensors if n not in aliases}, CASES[case]
    )


@pytest.mark.parametrize("case", MODELS)
def test_every_bit_comes_back(case):
    given = checkpoint(case)
    sizes = {name: given.tensors.spec(name).shape for name in given.tensors}
    opened = in_memory(random_bits(sizes, "bfloat16"), CASES[case])
    assert (opened.family, opened.dialect) == ("t5", "hub")
    assert not assert_every_bit_comes_back(opened).left


def test_files_of_the_first_models():
    """They hold one table four times, and a bias that no class reads."""
    given = checkpoint("t5").tensors
    again = {name: given["shared.weight"] for name in (*TIED, "lm_head.weight")}
    odd = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    opened = in_memory(dict(given) | again | {odd: np.ones((8, 4))}, CASES["t5"])
    assert opened.ties == dict.fromkeys(again, "shared.weight")
    ours = leaves(opened)
    assert ours.left == [odd] and "lm_head/kernel" not in ours
    assert set(ours) == set(leaves(checkpoint("t5")))


@pytest.mark.parametrize(
    "case", ["t5", "t5_wide_heads", "t5_gated_untied", "t5_encoder_wide"]
)
def test_computes_what_torch_does(case):
    """Texts longer than the farthest distance of a bucket, padded at either end."""
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 61, MASK.shape), rng.integers(0, 61, (3, 21))
    given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(MASK)}
    arrays = {"tokens": jnp.asarray(tokens), "mask": jnp.asarray(MASK)}
    if "encoder" not in case:
        given["decoder_input_ids"] = torch.tensor(targets)
        arrays["targets"] = jnp.asarray(targets)
    with torch.no_grad():
        wanted = dict(build_torch(case)(**given, use_cache=False))
    if "last_hidden_state" in wanted:
        kind = "encoder" if "encoder" in case else "decoder"
        wanted[f"{kind}_last_hidden_state"] = wanted["last_hidden_state"]
    model = jax.tree.map(jnp.asarray, build(checkpoint(case)))
    found = model.outputs(**arrays)
    assert_says(found, wanted, NAMES)
    assert np.array_equal(model(**arrays), found[list(found)[-1]])


@pytest.mark.parametrize("case", slow_but("t5", of=["t5", "t5_gated_untied"]))
def test_writes_what_torch_does(case):
    """Word for word, with a cache, where torch does without."""
    tokens = np.random.default_rng(1).integers(2, 61, MASK.shape)
    wanted = build_torch(case).generate(
        torch.tensor(tokens),
        attention_mask=torch.tensor(MASK),
        max_new_tokens=25,
        do_sample=False,
        use_cache=False,
        eos_token_id=13,
        pad_token_id=5,
        decoder_start_token_id=3,
    )
    config = {"eos_token_id": 13, "pad_token_id": 5, "decoder_start_token_id": 3}
    state = dict(checkpoint(case).tensors)
    model = build(in_memory(state, CASES[case] | config))
    write = jax.jit(lambda model, tokens, mask: model.generate(tokens, 25, mask))
    found = np.array(write(model, jnp.asarray(tokens), jnp.asarray(MASK)))
    wanted = wanted.numpy()[:, 1:]
    assert np.array_equal(found[:, : wanted.shape[1]], wanted)
    assert (found[:, wanted.shape[1] :] == 5).all()


@pytest.mark.parametrize(
    ("count", "farthest"), [(32, 128), (8, 16), (12, 20), (16, 100), (64, 512)]
)
@pytest.mark.parametrize("both_sides", [True, False])
def test_distances_fall_into_the_buckets_of_torch(count, farthest, both_sides):
    far = torch.arange(-2000, 1)
    wanted = T5Attention._relative_position_bucket(far, both_sides, count, farthest)
    found = t5.buckets(2001, count // 2 if both_sides else count, farthest)
    assert np.array_equal(found[::-1], wanted.numpy())


@pytest.mark.parametrize("name", ["t5", "t5_gated_untied"])
def test_is_what_flax_transformers_has(name):
    model = stored("hf_flax")[name]
    opened = in_memory(weights(model), model["config"])
    tree = in_memory(dict(in_dialect(opened, "hf_flax").tensors), model["config"])
    digests = {
        path: [list(x.shape), hashlib.sha256(x.tobytes()).hexdigest()[:16]]
        for path, x in tree.tensors.items()
    }
    assert digests == model["flax"]
    assert_every_bit_comes_back(tree)
    found = said(build(tree), *map(jnp.asarray, inputs(model).values()))
    assert_says(found, model["outputs"], NAMES)


@pytest.mark.slow
def test_runs_with_half_the_bits():
    model, tokens = build(checkpoint("t5_gated_tied")), jnp.arange(18).reshape(2, 9)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    whole, found = said(model, tokens, tokens), said(half, tokens, tokens)
    for name, got in found.items():
        assert got.dtype == jnp.bfloat16
        # 8 bits, and about sixty roundings on the way.
        near = 60 * 2**-8 * jnp.abs(whole[name]).max()
        assert jnp.abs(got.astype(jnp.float32) - whole[name]).max() < near
    write = jax.jit(lambda model, tokens: model.generate(tokens, 3))
    assert write(half, tokens).shape == (2, 3)


HUB = stored("text_configs")


@pytest.mark.parametrize(
    ("name", "activation", "gated", "scales", "has_decoder"),
    [
        ("t5-small", "relu", False, True, True),
        ("flan-t5-base", "gelu_new", True, False, True),
        ("t5-xxl-encoder", "gelu_new", True, False, False),
    ],
)
def test_reads_configs_of_the_hub(name, activation, gated, scales, has_decoder):
    config = t5.Config.read(HUB[name])
    assert (config.activation, config.gated) == (activation, gated)
    assert (config.scales_outputs, config.has_decoder) == (scales, has_decoder)
    # The same from what transformers 5 makes of it.
    theirs = transformers.T5Config.from_dict(HUB[name]).to_dict()
    again = t5.Config.read(theirs)
    assert (again.activation, again.gated) == (activation, gated)
    assert again.scales_outputs == scales
    assert len(t5.example(HUB[name], jax.random.key(0))) == 1 + has_decoder


@pytest.mark.parametrize(
    ("projection", "activation", "gated"),
    [
        ("gated-gelu", "gelu_new", True),
        ("gated-silu", "silu", True),
        ("gelu", "gelu", False),
    ],
)
def test_takes_projections_at_their_word(projection, activation, gated):
    config = t5.Config.read({"feed_forward_proj": projection})
    assert (config.activation, config.gated) == (activation, gated)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"feed_forward_proj": "gated-mish"}, r"expected \[gated-\]name"),
        ({"dense_act_fn": "mish"}, "known activations are gelu, "),
        ({"model_type": "umt5"}, "'model_type' is 'umt5'"),
        ({"num_experts": 8}, "the field 'num_experts' is not known"),
    ],
)
def test_refuses_what_it_would_compute_otherwise(field, message):
    with pytest.raises(ConversionError, match=message):
        t5.sizes(field)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("encoder.final_layer_norm.weight"), "encoder/norm/.* missing"),
        (
            lambda t: t.update({"encoder.norm.weight": np.ones(2)}),
            "no rule for .*r.norm",
        ),
        (lambda t: t.update({"shared.weight": np.ones((61, 7))}), r"shape \(61, 7\)"),
    ],
)
def test_refuses_tensors_that_do_not_fit(change, message):
    tensors = dict(checkpoint("t5").tensors)
    change(tensors)
    with pytest.raises(ConversionError, match=message):
        leaves(in_memory(tensors, CASES["t5"]))
