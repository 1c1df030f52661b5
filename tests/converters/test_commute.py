"""Merging commutes with conversion: it does not matter which is done first."""

import jax
import numpy as np
import pytest
from torch_models import CASES, saved

import mda_jax as mda
from mda_jax import converters
from mda_jax.converters.checkpoint import in_dialect, with_tree
from mda_jax.converters.naming import family_of
from mda_jax.trees import layouts


LAYOUTS = "nnx", "scanned", "head_split", "hf_flax", "fused"
METHODS = "task_arithmetic", "ties", "iso_c", "mda"
FAMILIES = (
    "vit dinov2_swiglu clip siglip bert_mlm roberta_mlm distilbert gpt2_lm t5 llama"
    " gemma2 phi3 mixtral qwen3_moe resnet_basic convnextv2"
).split()
# A stack's matrices go through the same factorisations as a batch, and those of one
# matrix alone as one: a few roundings of entries of order one apart.
BATCHED = dict(rtol=0, atol=64 * np.finfo(np.float32).eps)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


def experts(tensors, count=3):
    """Models around one: every floating tensor a little off, each in its own way."""
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    return [
        {
            name: x + 0.1 * rng.standard_normal(x.shape).astype(x.dtype)
            if x.dtype.kind == "f"
            else x
            for name, x in tensors.items()
        }
        for rng in rngs
    ]


def merged(base, others, method):
    return jax.tree.map(np.asarray, mda.merge(base, others, method))


def check(case, layout, method, folders):
    source = converters.load(saved(case, folders))
    names = [d.name for d in family_of(source.family).dialects]
    if layout not in names:
        layout = "nnx"
    base = {name: np.asarray(source.tensors[name]) for name in source.tensors}
    others = experts(base)
    first = merged(base, others, method)
    trees = [
        converters.to_flax(with_tree(source, x, source.dialect), layout)
        for x in (base, *others)
    ]
    after = converters.to_torch(merged(trees[0], trees[1:], method), source, layout=layout)
    assert set(after.tensors) == set(first)
    for name, want in first.items():
        np.testing.assert_allclose(after.tensors[name], want, **BATCHED, err_msg=name)


def layout_of(case):
    """A layout for each family, so that all occur, and what fuses stays fused."""
    if case in ("gpt2_lm", "phi3", "dinov2_swiglu", "siglip"):
        return "fused"
    return LAYOUTS[FAMILIES.index(case) % 4]


@pytest.mark.parametrize("case", FAMILIES)
@pytest.mark.parametrize("name", METHODS)
def test_merging_commutes_with_conversion(case, name, folders):
    check(case, layout_of(case), getattr(mda.methods, name)(), folders)
