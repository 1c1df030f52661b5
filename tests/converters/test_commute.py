"""Merging commutes with conversion: it does not matter which is done first."""

import jax
import numpy as np
import pytest
from torch_models import saved

import mda_jax as mda
from mda_jax import converters
from mda_jax.converters.checkpoint import with_tree
from mda_jax.converters.naming import family_of
from mda_jax.pipeline.run import run


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
    after = converters.to_torch(
        merged(trees[0], trees[1:], method), source, layout=layout
    )
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


@pytest.mark.parametrize("format", ["msgpack", "orbax"])
def test_merged_folders_of_flax_convert_into_those_of_torch(format, folders, tmp_path):
    """Buffers that Flax lacks come back too, from what the conversion left."""
    source = converters.load(saved("resnet_basic", folders))
    base = {name: np.asarray(source.tensors[name]) for name in source.tensors}
    for i, tensors in enumerate(experts(base, 2)):
        model = with_tree(source, tensors, source.dialect)
        converters.save(model, tmp_path / f"torch{i}")
        flax = converters.in_dialect(converters.load(tmp_path / f"torch{i}"), "nnx")
        converters.save(flax, tmp_path / f"flax{i}", format)
    for kind in ("torch", "flax"):
        models = [{"model": str(tmp_path / f"{kind}{i}")} for i in range(2)]
        recipe = {"merge_method": "linear", "models": models, "dtype": "float32"}
        run(recipe | {"parameters": {"weight": 0.5}}, tmp_path / kind)
    back = converters.to_torch(converters.load(tmp_path / "flax"))
    converters.save(back, tmp_path / "back")
    weights = "model.safetensors"
    assert (tmp_path / "back" / weights).read_bytes() == (
        tmp_path / "torch" / weights
    ).read_bytes()
