"""ResNet: training, statistics of a merged model, Flax's basic blocks."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from parity import assert_every_bit_comes_back, in_memory, said
from torch_models import CASES, build as build_torch
from vision import checkpoint, images, state

from mda_jax.converters import build
from mda_jax.converters.convert import leaves
from mda_jax.converters.models.resnet import recalibrated


CASE = "resnet_basic"
BATCHES = [images(CASE) + shift for shift in (0, 0.5, 1)]


def statistics(model):
    """Means and variances of a model of ours, by path."""
    found = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    return {"/".join(map(str, path)): np.asarray(x[...]) for path, x in found}


def of_torch(model):
    """The same of torch's; its variances are over one less."""
    tensors = {n: x.numpy() for n, x in model.state_dict().items()}
    return leaves(in_memory(tensors, CASES[CASE]))


def test_training_normalises_by_the_batch_and_moves_the_statistics():
    ours, theirs = build(checkpoint(CASE)), build_torch(CASE).train()
    before = statistics(ours)
    ours.train()
    found = said(ours, jnp.asarray(BATCHES[0]))["logits"]
    with torch.no_grad():
        wanted = theirs(torch.tensor(BATCHES[0].transpose(0, 3, 1, 2))).logits
    # Batches of one pixel in the last layers divide by small spreads.
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    after, moved = statistics(ours), of_torch(theirs)
    for name, x in after.items():
        if name.endswith("mean"):
            assert not np.array_equal(x, before[name])
            np.testing.assert_allclose(x, moved[name], atol=1e-5)
    count = BATCHES[0].size / 3 / 4  # pixels of the batch after the first convolution
    wide = moved["stem/norm/var"] - 0.9 * before["stem/norm/var"]
    narrow = after["stem/norm/var"] - 0.9 * before["stem/norm/var"]
    np.testing.assert_allclose(narrow, wide * (count - 1) / count, rtol=1e-3)


def test_recalibrated_statistics_are_the_mean_over_batches():
    model = build(checkpoint(CASE))
    before = statistics(model)
    found = recalibrated(model, map(jnp.asarray, BATCHES))
    theirs = build_torch(CASE).train()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # a plain mean
    with torch.no_grad():
        for batch in BATCHES:
            theirs(torch.tensor(batch.transpose(0, 3, 1, 2)))
    wanted = of_torch(theirs)
    for name, x in statistics(found).items():
        if name.endswith("mean"):
            np.testing.assert_allclose(x, wanted[name], atol=1e-5)
    assert all(np.array_equal(x, before[n]) for n, x in statistics(model).items())
    again = jnp.asarray(BATCHES[0])
    assert found.stem.norm.use_running_average and found.stem.norm.momentum == 0.9
    first, second = (said(m, again)["logits"] for m in (found, model))
    assert jnp.abs(first - second).max() > 0.01
    with pytest.raises(ValueError, match="no batches"):
        recalibrated(model, [])


@pytest.mark.parametrize("case", ["resnet_basic", "resnet_bottleneck"])
def test_trees_of_flax_transformers(case):
    """Its class for basic blocks has other names for their convolutions."""
    ours = leaves(checkpoint(case))

    def path(name):
        *before, last = name.split("/")
        stem = before[0] == "stem"
        where = ["embedder", "embedder"] if stem else ["encoder", *before[:2]]
        if before[0] == "classifier":
            return f"params/classifier/1/{last}"
        if not stem:
            where += ["layers", before[2], *before[3:-1]]
        kind = {"conv": "convolution", "norm": "normalization"}[before[-1]]
        basic = "layer_" if case == "resnet_basic" else ""
        text = "/".join(["resnet", *where, kind, last])
        text = text.replace("/path/", f"/layer/{basic}")
        collection = "batch_stats" if last in ("mean", "var") else "params"
        return f"{collection}/{text}"

    tree = {path(name): ours[name] for name in ours}
    back = assert_every_bit_comes_back(in_memory(tree, CASES[case]))
    assert {n: ours[n].tobytes() for n in ours} == {n: back[n].tobytes() for n in back}


def test_counters_of_batches_are_kept_aside():
    tensors = state(CASE)
    ours = leaves(checkpoint(CASE))
    assert sorted(ours.left) == sorted(n for n in tensors if n.endswith("tracked"))
