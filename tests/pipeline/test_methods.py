"""A method gives from files what it gives in memory."""

import numpy as np
import pytest
from folders import read, save

from mda_jax import merge, methods, pipeline
from mda_jax.pipeline.dialect import MERGEKIT


WEIGHT = "model.layers.0.mlp.up_proj.weight"
SEVERAL = "consensus dls magmax mda ties_global tsv wudi".split()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    def tensors(seed):
        draw = np.random.default_rng(seed)
        shapes = {WEIGHT: (16, 8), "model.norm.weight": (8,)}
        return {n: draw.normal(size=s).astype(np.float32) for n, s in shapes.items()}

    folder = tmp_path_factory.mktemp("models")
    return [save(folder / n, tensors(s)) for s, n in enumerate(["base", "a", "b"])]


@pytest.mark.parametrize("name", SEVERAL)
def test_our_methods_merge_from_files(models, tmp_path, name):
    base, *experts = models
    config = {
        "merge_method": name,
        "base_model": str(base),
        "models": [{"model": str(e)} for e in experts],
    }
    pipeline.run(config, tmp_path / "out", shard_size=500)
    config["models"].reverse()
    pipeline.run(config, tmp_path / "again")
    again = read(tmp_path / "again")
    method = getattr(methods, name)()
    want = merge(read(base), [read(e) for e in experts], method)
    for key, x in read(tmp_path / "out").items():
        np.testing.assert_array_equal(again[key], x)
        # The same kernels on other batches: some roundings of values below 8.
        np.testing.assert_allclose(x, want[key], atol=400 * 8 * 2.0**-24)


@pytest.mark.parametrize("name", sorted(MERGEKIT))
def test_mergekits_methods_do_not_depend_on_files_and_order(models, tmp_path, name):
    dialect = MERGEKIT[name]
    base, *experts = models
    single = name in ("arcee_fusion", "nearswap", "passthrough", "slerp")
    needs = {"weight": 0.5, "t": 0.5, "density": 0.8, "epsilon": 0.1}
    given = {k: v for k, v in needs.items() if k in dialect.signature}
    models_ = [{"model": str(e)} for e in experts[: 1 if single else 2]]
    config = {"merge_method": name, "models": models_, "parameters": given}
    if name not in ("karcher", "linear", "nuslerp", "passthrough"):
        config["base_model"] = str(base)
    pipeline.run(config, tmp_path / "one", seed=7)
    backwards = config | {"models": models_[::-1]}
    pipeline.run(backwards, tmp_path / "two", seed=7, shard_size=500)
    one, two = read(tmp_path / "one"), read(tmp_path / "two")
    for key, x in one.items():
        np.testing.assert_array_equal(two[key], x)
    assert any(not np.array_equal(x, read(base)[key]) for key, x in one.items())


def test_masks_are_those_of_seed_tensor_and_model(models, tmp_path):
    base, *experts = models
    config = {
        "merge_method": "dare_linear",
        "base_model": str(base),
        "models": [{"model": str(e)} for e in experts],
        "parameters": {"weight": 1, "density": 0.5},
    }
    for seed in (0, 1):
        pipeline.run(config, tmp_path / str(seed), seed=seed)
    zero, one = read(tmp_path / "0"), read(tmp_path / "1")
    assert any(not np.array_equal(zero[n], one[n]) for n in zero)
    alone = config | {"models": [{"model": str(experts[1])}]}
    alone["parameters"] = {"weight": 1, "density": 0.5, "rescale": False}
    pipeline.run(alone, tmp_path / "alone", seed=0)
    only = read(tmp_path / "alone")
    kept = only[WEIGHT] != read(base)[WEIGHT]
    assert 0.2 < kept.mean() < 0.8
    both = {**config, "parameters": {**config["parameters"], "rescale": False}}
    pipeline.run(both, tmp_path / "both", seed=0)
    other = read(tmp_path / "both")[WEIGHT] - only[WEIGHT]
    delta = read(experts[0])[WEIGHT] - read(base)[WEIGHT]
    dropped = np.isclose(other, 0, atol=1e-6)
    np.testing.assert_allclose(other[~dropped], delta[~dropped], atol=1e-5)
