"""GPT-2: every bit comes back, and JAX says and writes what torch does."""

import hashlib
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity import (
    assert_every_bit_comes_back,
    assert_says,
    in_memory,
    random_bits,
    said,
)
from stored import inputs, stored, weights
from torch_models import CASES, build as build_anew, slow_but

from mda_jax.converters import ConversionError, build, in_dialect
from mda_jax.converters.convert import leaves
from mda_jax.converters.models import gpt2


DECODERS = """gpt2 gpt2_lm gpt2_inner gpt2_untied gpt2_sequence gpt2_token
    gpt2_question""".split()
NAMES = {
    "hidden": ["last_hidden_state"],
    "logits": ["logits of words"],
    "score": ["logits of texts"],
    "classifier": ["logits of tokens"],
    "span": ["start and end"],
}
MASK = np.array([[1] * 9, [1] * 4 + [0] * 5, [0, 0] + [1] * 7])
build_torch = cache(build_anew)


def checkpoint(case):
    """A model as its file has it."""
    tied = CASES[case].get("tie_word_embeddings", True)
    tensors = build_torch(case).state_dict().items()
    state = {n: x.numpy() for n, x in tensors if not (tied and n == "lm_head.weight")}
    return in_memory(state, CASES[case])


@pytest.mark.parametrize("case", DECODERS)
def test_every_bit_comes_back(case):
    given = checkpoint(case)
    sizes = {name: given.tensors.spec(name).shape for name in given.tensors}
    opened = in_memory(random_bits(sizes, "bfloat16"), CASES[case])
    assert (opened.family, opened.dialect) == ("gpt2", "hub")
    assert not assert_every_bit_comes_back(opened).left


def test_query_key_and_value_are_the_thirds_of_one_matrix():
    given = checkpoint("gpt2").tensors
    fused = given["h.1.attn.c_attn.weight"], given["h.1.attn.c_attn.bias"]
    ours = leaves(checkpoint("gpt2"))
    for number, name in enumerate(["query", "key", "value"]):
        columns = slice(32 * number, 32 * number + 32)
        for whole, kind in zip(fused, ["kernel", "bias"], strict=True):
            part = ours[f"layers/1/attention/{name}/{kind}"]
            assert np.array_equal(part, whole[..., columns])


def test_masks_in_files_are_carried_along():
    """The first files hold the causal mask and its value, without a prefix."""
    config, given = CASES["gpt2_lm"], checkpoint("gpt2_lm").tensors
    state = {n.removeprefix("transformer."): given[n] for n in given}
    masks = {f"h.{i}.attn.bias": np.tri(40, dtype=np.uint8)[None, None] for i in (0, 1)}
    masks |= {f"h.{i}.attn.masked_bias": np.float32(-1e4) for i in (0, 1)}
    opened = in_memory(state | masks, config)
    assert sorted(assert_every_bit_comes_back(opened).left) == sorted(masks)


@pytest.mark.parametrize("case", DECODERS)
def test_computes_what_torch_does(case):
    tokens = np.random.default_rng(0).integers(0, 61, MASK.shape)
    tokens[1, 3:] = 7  # the padding of the classifier of texts
    given = {"input_ids": torch.tensor(tokens), "attention_mask": torch.tensor(MASK)}
    with torch.no_grad():
        wanted = dict(build_torch(case)(**given, use_cache=False))
    if "start_logits" in wanted:
        ends = wanted["start_logits"], wanted["end_logits"]
        wanted["start and end"] = torch.stack(ends, -1)
    if "logits" in wanted:
        of = {"sequence": "texts", "token": "tokens"}.get(case[5:], "words")
        wanted[f"logits of {of}"] = wanted.pop("logits")
    model = build(checkpoint(case))
    given = jnp.asarray(tokens), jnp.asarray(MASK)
    found = model.outputs(*given)
    assert np.array_equal(found["logits"], model(*given))
    # Padding before a text sees nothing, of which everybody makes something else.
    real = MASK[..., None] == 1
    found = {n: np.where(real, x, 0) if x.ndim > 2 else x for n, x in found.items()}
    wanted = {n: np.where(real, x, 0) if x.ndim > 2 else x for n, x in wanted.items()}
    assert_says(found, wanted, NAMES)


@pytest.mark.parametrize(
    "case", slow_but("gpt2_inner", of=["gpt2_lm", "gpt2_inner", "gpt2_untied"])
)
def test_writes_what_torch_does(case):
    """Word for word, whatever the padding on the left."""
    tokens = np.random.default_rng(1).integers(0, 60, (6, 7))
    mask = np.arange(7)[None] >= np.array([0, 1, 6, 3, 0, 2])[:, None]
    mask = mask.astype(int)
    wanted = build_torch(case).generate(
        torch.tensor(tokens),
        attention_mask=torch.tensor(mask),
        max_new_tokens=15,
        do_sample=False,
        eos_token_id=44,
        pad_token_id=5,
    )
    config = CASES[case] | {"eos_token_id": [44, 99], "pad_token_id": 5}
    model = build(in_memory(dict(checkpoint(case).tensors), config))
    write = jax.jit(lambda model, tokens, mask: model.generate(tokens, 15, mask))
    found = np.array(write(model, jnp.asarray(tokens), jnp.asarray(mask)))
    wanted = wanted.numpy()[:, 7:]
    assert np.array_equal(found[:, : wanted.shape[1]], wanted)
    assert (found[:, wanted.shape[1] :] == 5).all()


def test_a_text_is_no_longer_than_its_places():
    model = build(checkpoint("gpt2_lm"))
    with pytest.raises(ValueError, match="41 tokens; the model has 40 places"):
        model.generate(jnp.ones((1, 30), int), 11)
    with pytest.raises(ValueError, match="41 tokens; the model has 40 places"):
        model(jnp.ones((1, 41), int))


def test_is_what_flax_transformers_has():
    model = stored("hf_flax")["gpt2_lm"]
    opened = in_memory(weights(model), model["config"])
    tree = in_memory(dict(in_dialect(opened, "hf_flax").tensors), model["config"])
    digests = {
        path: [list(x.shape), hashlib.sha256(x.tobytes()).hexdigest()[:16]]
        for path, x in tree.tensors.items()
    }
    assert digests == model["flax"]
    assert_every_bit_comes_back(tree)
    found = said(build(tree), *map(jnp.asarray, inputs(model).values()))
    assert_says(found, model["outputs"], NAMES | {"logits": ["logits"]})


@pytest.mark.slow
def test_runs_with_half_the_bits():
    model, tokens = build(checkpoint("gpt2_lm")), jnp.arange(18).reshape(2, 9)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    whole = said(model, tokens)["logits"]
    got = said(half, tokens)["logits"]
    assert got.dtype == jnp.bfloat16
    # 8 bits, and about thirty roundings on the way to outputs of order one.
    assert jnp.abs(got.astype(jnp.float32) - whole).max() < 30 * 2**-8
    write = jax.jit(lambda model, tokens: model.generate(tokens, 3))
    assert write(half, tokens).shape == (2, 3)


@pytest.mark.parametrize(("name", "heads"), [("gpt2", 12), ("gpt2-medium", 16)])
def test_reads_configs_of_the_hub(name, heads):
    config = stored("text_configs")[name]
    assert gpt2.sizes(config) == {"heads": heads, "kv_heads": heads}
    assert gpt2.Config.read(config).attention_scale(3) == 1 / 8


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"add_cross_attention": True}, "'add_cross_attention' is True"),
        ({"activation_function": "mish"}, "known activations are gelu, "),
        ({"alibi": True}, "the field 'alibi' is not known"),
    ],
)
def test_refuses_what_it_would_compute_otherwise(field, message):
    with pytest.raises(ConversionError, match=message):
        gpt2.sizes(field)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("h.1.attn.c_attn.bias"),
            r"/key/bias' is mis.*'h\.1\.attn\.c_attn\.bias'",
        ),
        (
            lambda t: t.update({"h.1.attn.q_attn.bias": np.ones(2)}),
            "no rule for .*q_at",
        ),
        (lambda t: t.update({"h.0.attn.c_attn.bias": np.ones(97)}), r"in the ratios"),
        (lambda t: t.update({"h.0.attn.c_attn.bias": np.ones(99)}), r"shape \(33,\)"),
    ],
)
def test_refuses_tensors_that_do_not_fit(change, message):
    tensors = dict(checkpoint("gpt2").tensors)
    change(tensors)
    with pytest.raises(ConversionError, match=message):
        leaves(in_memory(tensors, CASES["gpt2"]))
