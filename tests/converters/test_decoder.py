"""Decoders compute what transformers computes, at once and token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from parity import assert_says, in_memory, said
from torch_models import CASES, build, fill_model, slow_but

from mda_jax.converters import convert


FORWARD = [
    "llama_biased",
    "llama_base",
    "llama_head_dim",
    "mistral",
    "qwen2_sliding",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3",
    "phi3_partial_rope",
    "mixtral",
    "qwen3_moe",
    "qwen3_moe_dense_layer",
]
NAMES = {
    "hidden": ["last_hidden_state"],
    "logits": ["logits"],
    "classifier": ["logits"],
}
LENGTH = 12
TOKENS = np.random.default_rng(0).integers(1, 61, (2, LENGTH), np.int32)
MASK = np.ones_like(TOKENS)
MASK[0, :3] = MASK[1, 10:] = 0


def opened(model):
    """The checkpoint that `save_pretrained` would write, and the model itself."""
    state = {name: x.numpy() for name, x in model.state_dict().items()}
    return in_memory(state, model.config.to_dict())


def of_torch(model, mask=None):
    """What a model of torch says; caps of scores are in its plain attention alone."""
    model.set_attn_implementation("eager")
    given = {} if mask is None else {"attention_mask": torch.from_numpy(mask).long()}
    with torch.no_grad():
        return model(torch.from_numpy(TOKENS).long(), **given)


def at_tokens(outputs):
    """The outputs at tokens; what is said of padding has no meaning."""
    return {name: np.asarray(x)[MASK != 0] for name, x in outputs.items()}


@pytest.mark.parametrize("case", slow_but(*FORWARD[::2], of=FORWARD))
def test_forward(case):
    model = build(case)
    found = said(convert.build(opened(model)), TOKENS, MASK)
    wanted = of_torch(model, MASK)
    names = set(found) - ({"hidden"} if "logits" in found else set())
    assert names == {"hidden" if case == "llama_base" else "logits"}
    theirs = {
        n: wanted[n].numpy() for n in ("logits", "last_hidden_state") if n in wanted
    }
    assert_says(at_tokens({n: found[n] for n in names}), at_tokens(theirs), NAMES)


@pytest.mark.parametrize(
    ("base", "purpose"),
    [
        ("llama", "LlamaForSequenceClassification"),
        ("llama", "LlamaForTokenClassification"),
    ],
)
def test_classifiers(base, purpose):
    """Of the last token that is no padding, or of every token."""
    fields = CASES[base] | {"architectures": [purpose], "num_labels": 3}
    kind = getattr(transformers, purpose)
    model = fill_model(kind(kind.config_class.from_dict(fields)))
    tokens = TOKENS.copy()
    tokens[0, 8:] = fields["pad_token_id"]
    ours = convert.build(opened(model))
    model.set_attn_implementation("eager")
    with torch.no_grad():
        wanted = model(torch.from_numpy(tokens).long()).logits.numpy()
    found = said(ours, tokens)
    assert set(found) == {"hidden", "classifier"}
    assert_says({"classifier": found["classifier"]}, {"logits": wanted}, NAMES)
    assert ours(jnp.asarray(tokens)).shape == wanted.shape


@pytest.mark.parametrize("case", ["gemma3", "mixtral"])
def test_token_by_token(case):
    """Five tokens at once, then one after another: the same logits."""
    model = convert.build(opened(build(case)))
    step = nnx.jit(lambda model, *given: model.step(*given))
    cache, heard = model.cache(2, LENGTH + 2), []
    for start, end in [(0, 5), *((i, i + 1) for i in range(5, LENGTH))]:
        logits, cache = step(model, TOKENS[:, start:end], cache, MASK[:, start:end])
        heard.append(logits)
    assert int(cache.length) == LENGTH
    whole = {"logits": np.asarray(said(model, TOKENS, MASK)["logits"])}
    steps = {"logits": np.concatenate(heard, 1)}
    assert_says(at_tokens(steps), at_tokens(whole), NAMES)


@pytest.mark.parametrize("case", ["llama_biased", "gemma2", "qwen3_moe"])
def test_bfloat16(case):
    """Two layers of some ten roundings of 8 bits; few tokens take another expert."""
    model = build(case).to(torch.bfloat16)
    state = {
        name: np.asarray(jnp.asarray(x.float().numpy()).astype(jnp.bfloat16))
        for name, x in model.state_dict().items()
    }
    got = said(convert.build(in_memory(state, CASES[case])), TOKENS)["logits"]
    want = of_torch(model).logits.float().numpy()
    assert got.dtype == jnp.bfloat16
    error = np.abs(np.asarray(got.astype(jnp.float32)) - want).max(-1)
    far = error > 20 * 2**-8 * np.abs(want).max()
    assert far.mean() <= (0.1 if "moe" in case else 0)


def test_gradients_of_experts():
    """The slope along the gradient, by finite differences, is its length."""
    graph, state = nnx.split(convert.build(opened(build("mixtral"))))
    hash(graph)  # it can be a static argument

    @jax.jit
    @jax.value_and_grad
    def loss(state):
        logits = nnx.merge(graph, state)(jnp.asarray(TOKENS[:1, :4]))
        return jnp.mean(jax.nn.log_softmax(logits)[..., 7])

    _, gradient = loss(state)
    layer = gradient["layers"][0]["mlp"]
    for there in (layer["experts"]["up"]["kernel"], layer["router"]["kernel"]):
        assert np.any(np.asarray(there[...]))
    length = np.sqrt(sum(float(jnp.sum(g * g)) for g in jax.tree.leaves(gradient)))
    step = 1e-2 / length

    def moved(by):
        return jax.tree.map(lambda w, g: w + by * g, state, gradient)

    rise = float(loss(moved(step))[0]) - float(loss(moved(-step))[0])
    assert abs(rise / 2e-2 - length) <= 0.02 * length
