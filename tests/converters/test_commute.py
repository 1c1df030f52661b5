"""Merging commutes with conversion: it does not matter which is done first."""

import jax
import numpy as np
import pytest
from torch_models import CASES, saved

import mda_jax as mda
from mda_jax import converters
from mda_jax.converters.convert import with_tree
from mda_jax.converters.families import FAMILIES as KNOWN
from mda_jax.pipeline.run import run


LAYOUTS = "nnx", "scanned", "head_split", "hf_flax", "fused"
FAMILIES = (
    "vit dinov2_swiglu clip siglip bert_mlm roberta_mlm distilbert gpt2_lm t5 llama"
    " gemma2 phi3 mixtral qwen3_moe resnet_basic convnextv2"
).split()
ALWAYS = "vit", "bert_mlm", "distilbert", "gpt2_lm", "mixtral"  # not slow
FUSED = "dinov2_swiglu", "siglip", "gpt2_lm", "phi3"  # in the hub's files
RANDOM = "dare_linear", "dare_ties", "della", "della_linear"  # masks go by names
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


def check(case, layout, name, folders):
    method = getattr(mda.methods, name)()
    source = converters.load(saved(case, folders))
    base = {name: np.asarray(source.tensors[name]) for name in source.tensors}
    others = experts(base, mda.methods.experts_of(name) or 3)
    first = merged(base, others, method)
    trees = [
        converters.to_flax(with_tree(source, x, source.dialect), layout)
        for x in (base, *others)
    ]
    tree = merged(trees[0], trees[1:], method)
    after = converters.to_torch(tree, source, layout=layout).tensors
    assert set(after) == set(first)
    for name, want in first.items():
        np.testing.assert_allclose(after[name], want, **BATCHED, err_msg=name)


def layouts_of(case):
    """Those of a family that leave together what its files have together."""
    kind = CASES[case]["model_type"]
    family = next(family for family in KNOWN if kind in family.model_types)
    names = [dialect.name for dialect in family.dialects]
    own = ["fused"] if case in FUSED else [n for n in LAYOUTS[:4] if n in names]
    return [n for n in own if (n, case) != ("scanned", "resnet_basic")]


def one_of_each():
    """A layout and a method for each family, so that all occur."""
    methods = "task_arithmetic", "iso_c", "ties", "mda", "tsv"
    layouts = [(n, case, layouts_of(case)) for n, case in enumerate(FAMILIES)]
    return [
        pytest.param(
            case,
            own[n % len(own)],
            methods[n % 5],
            marks=[] if case in ALWAYS else pytest.mark.slow,
        )
        for n, case, own in layouts
    ]


@pytest.mark.parametrize(("case", "layout", "name"), one_of_each())
def test_merging_commutes_with_conversion(case, layout, name, folders):
    check(case, layout, name, folders)


@pytest.mark.slow
@pytest.mark.parametrize("case", FAMILIES)
@pytest.mark.parametrize("name", [n for n in mda.methods.names if n not in RANDOM])
def test_every_method_commutes_with_conversion_in_every_layout(case, name, folders):
    for layout in layouts_of(case):
        check(case, layout, name, folders)


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
