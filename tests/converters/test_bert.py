"""BERT, RoBERTa, XLM-R, DistilBERT: bits come back, and JAX says what torch does."""

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
from torch_models import CASES, build as build_anew

from mda_jax.converters import ConversionError, build, in_dialect
from mda_jax.converters.convert import leaves
from mda_jax.converters.models import bert, distilbert, roberta


MODELS = {"bert": bert, "roberta": roberta, "distilbert": distilbert}
ENCODERS = """bert bert_mlm_untied bert_pretraining bert_sequence bert_token
    bert_question bert_choice roberta roberta_mlm roberta_sequence distilbert_mlm
    distilbert_mlm_untied distilbert_sequence distilbert_token""".split()
NAMES = {
    "hidden": ["last_hidden_state"],
    "pooled": ["pooler_output"],
    "mlm": ["prediction_logits", "logits of words"],
    "next_sentence": ["seq_relationship_logits", "logits of sentences"],
    "span": ["start and end"],
    "classifier": ["logits"],
}
ALIASES = ("decoder.weight", "decoder.bias", "vocab_projector.weight")
MASK = np.array([[1] * 9, [1] * 4 + [0] * 5, [0, 0] + [1] * 7])


build_torch = cache(build_anew)


@cache
def state(case):
    """The tensors of a model as its file has them."""
    fields = CASES[case]
    tied = fields.get("tie_word_embeddings", True)
    return {
        name: tensor.numpy()
        for name, tensor in build_torch(case).state_dict().items()
        if not (tied and name.endswith(ALIASES))
    }


def checkpoint(case):
    return in_memory(state(case), CASES[case])


@pytest.mark.parametrize("case", [*ENCODERS, "xlm_roberta_mlm"])
def test_every_bit_comes_back(case):
    sizes = {name: tensor.shape for name, tensor in state(case).items()}
    opened = in_memory(random_bits(sizes, "bfloat16"), CASES[case])
    assert CASES[case]["model_type"].endswith(opened.family)
    assert not assert_every_bit_comes_back(opened).left


def test_old_names_and_buffers():
    """Scales were gamma and beta; places were stored as integers."""
    new = state("bert_mlm")
    ends = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}

    def old(name):
        end = next((e for e in ends if name.endswith(e)), "")
        return name.removesuffix(end) + ends.get(end, "")

    places = {"bert.embeddings.position_ids": np.arange(40)[None]}
    opened = in_memory({old(n): x for n, x in new.items()} | places, CASES["bert_mlm"])
    assert opened.dialect == "hub_old_norms"
    ours = assert_every_bit_comes_back(opened)
    assert ours.left == list(places)
    same = leaves(checkpoint("bert_mlm"))
    assert set(ours) == set(same)
    assert all(np.array_equal(ours[name], same[name]) for name in ours)


def texts(case):
    """Three texts, with padding at either end; RoBERTa tells it by the token 1."""
    tokens = np.random.default_rng(0).integers(2, 61, MASK.shape)
    if "roberta" in case:
        tokens = np.where(MASK, tokens, 1)
    given = {"input_ids": tokens, "attention_mask": MASK}
    if case.startswith("bert"):
        given["token_type_ids"] = np.arange(9)[None] // 3 % 2 + 0 * tokens
    return given


@pytest.mark.parametrize("case", ENCODERS)
def test_computes_what_torch_does(case):
    given = texts(case)
    found = build(checkpoint(case)).outputs(*map(jnp.asarray, given.values()))
    arguments = {name: torch.tensor(x) for name, x in given.items()}
    if case.endswith("choice"):  # of three answers
        arguments = {name: x[None] for name, x in arguments.items()}
    with torch.no_grad():
        wanted = {n: x for n, x in build_torch(case)(**arguments).items()}
    if case.endswith("choice"):
        wanted["logits"] = wanted["logits"].T
    if "start_logits" in wanted:
        ends = wanted["start_logits"], wanted["end_logits"]
        wanted["start and end"] = torch.stack(ends, -1)
    if "mlm" in case:
        wanted["logits of words"] = wanted.pop("logits")
    if "next" in case:
        wanted["logits of sentences"] = wanted.pop("logits")
    assert_says(found, wanted, NAMES)


@pytest.mark.parametrize("name", ["bert", "bert_mlm", "roberta", "distilbert"])
def test_is_what_flax_transformers_has(name):
    model = stored("hf_flax")[name]
    opened = in_memory(weights(model), model["config"])
    tree = in_dialect(opened, "hf_flax")
    digests = {
        path: [list(x.shape), hashlib.sha256(x.tobytes()).hexdigest()[:16]]
        for path, x in tree.tensors.items()
    }
    assert digests == model["flax"]
    assert_every_bit_comes_back(in_memory(dict(tree.tensors), model["config"]))
    ours = {
        "input_ids": "tokens",
        "attention_mask": "mask",
        "token_type_ids": "segments",
    }
    given = {ours[name]: jnp.asarray(x) for name, x in inputs(model).items()}
    found = build(opened).outputs(**given)
    names = NAMES | {"mlm": ["logits"]}
    assert_says(found, model["outputs"], names)


def test_a_classifier_of_tokens_may_stand_beside_a_pooler():
    """Files from before transformers 4 have one; the class tells what it classifies."""
    pooler = {n: x for n, x in state("bert_sequence").items() if "pooler" in n}
    config = CASES["bert_token"]
    opened = in_memory(state("bert_token") | pooler, config)
    tokens = jnp.ones((2, 5), int)
    assert build(opened).outputs(tokens)["classifier"].shape == (2, 5, 3)
    config = config | {"architectures": ["BertForSequenceClassification"]}
    opened = in_memory(state("bert_token") | pooler, config)
    assert build(opened).outputs(tokens)["classifier"].shape == (2, 3)


def test_runs_with_half_the_bits():
    model = build(checkpoint("bert_pretraining"))
    tokens = jnp.asarray(texts("bert")["input_ids"])
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    whole = model.outputs(tokens)
    for name, got in said(half, tokens).items():
        assert got.dtype == jnp.bfloat16
        # 8 bits, and about thirty roundings on the way to outputs of order one.
        assert jnp.abs(got.astype(jnp.float32) - whole[name]).max() < 30 * 2**-8


def test_embeds_sentences():
    hidden = np.random.default_rng(0).standard_normal((3, 9, 8)).astype(np.float32)
    found = bert.sentence_embedding(jnp.asarray(hidden), jnp.asarray(MASK))
    for got, rows, real in zip(found, hidden.astype(np.float64), MASK, strict=True):
        mean = rows[real == 1].mean(0)
        # A sum of 9 and a norm of 8 numbers, none far below 1: a few ulp.
        np.testing.assert_allclose(got, mean / np.linalg.norm(mean), atol=2e-6)


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("bert-base-multilingual", 12),
        ("minilm", 6),
        ("bert-of-2019", 12),
        ("roberta-base", 12),
        ("xlm-roberta-base", 12),
        ("distilbert-base-uncased", 6),
    ],
)
def test_reads_configs_of_the_hub(name, layers):
    config = stored("text_configs")[name]
    family = config.get("model_type", "bert").removeprefix("xlm-")
    read = MODELS[family].Config.read(config)
    assert (read.num_hidden_layers, read.num_attention_heads) == (layers, 12)
    assert MODELS[family].sizes(config) == {"heads": 12, "kv_heads": 12}
    assert read.longest == 512


def test_leaves_out_what_the_class_has_by_default():
    kind = {"model_type": "xlm-roberta"}
    assert roberta.sizes(kind) == {"heads": 12, "kv_heads": 12}
    tokens = roberta.example(kind | {"vocab_size": 9}, jax.random.key(0))[0]
    assert tokens.max() < 9


@pytest.mark.parametrize(
    ("model", "field", "message"),
    [
        (bert, {"position_embedding_type": "relative_key"}, "'relative_key'"),
        (bert, {"hidden_act": "gelu_10"}, "known activations are gelu, "),
        (bert, {"is_decoder": True}, "'is_decoder' is True"),
        (bert, {"pruned_heads": {"0": [1]}}, "'pruned_heads' is {'0': [1]}"),
        (roberta, {"model_type": "bert"}, "'model_type' is 'bert'"),
        (distilbert, {"layer_norm_eps": 0.1}, "'layer_norm_eps' is 0.1"),
        (distilbert, {"hidden_size": 8}, "the field 'hidden_size' is not known"),
    ],
)
def test_refuses_what_it_would_compute_otherwise(model, field, message):
    with pytest.raises(ConversionError) as e:
        model.sizes(field)
    assert message in str(e.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("roberta.encoder.layer.1.output.dense.bias"), "is missing"),
        (lambda t: t.update({"lm_head.scale": np.ones(2)}), "'lm_head.scale'; the nea"),
        (lambda t: t.update({"lm_head.bias": np.ones(7)}), r"shape \(7,\), but the"),
    ],
)
def test_refuses_tensors_that_do_not_fit(change, message):
    tensors = dict(state("roberta_mlm"))
    change(tensors)
    with pytest.raises(ConversionError, match=message):
        leaves(in_memory(tensors, CASES["roberta_mlm"]))
