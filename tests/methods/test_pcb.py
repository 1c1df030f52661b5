"""PCB against the authors' equations on the flat model, with sorts, in float64."""

import jax
import numpy as np
import pytest
from helpers import grid
from methods.whole import flat, merged, model

from mda_jax.methods import pcb


def clamped(x, low, high):
    """Each row to its entries at these shares of its sorted ones."""
    n = x.shape[1]
    ordered = np.sort(x, axis=1)
    least = ordered[:, int(n * low)][:, None]
    return np.clip(x, least, ordered[:, int(n * (1 - high) - 1)][:, None])


def unit(x):
    low, high = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    return (x - low) / (high - low)


def parts(rows, density, clip):
    sizes = clamped(np.abs(rows), clip, clip)
    within = np.exp(len(rows) * unit(sizes) ** 2)
    scores = within * np.tanh(rows * rows.sum(axis=0))
    return sizes, scores, unit(clamped(scores, 1 - density, 0))


def oracle(rows, density, clip, weights):
    sizes, scores, shares = parts(rows, density, clip)
    votes = shares.sum(axis=0)
    best = (weights[:, None] * np.sign(rows) * sizes * shares).sum(axis=0)
    return best / np.maximum(votes, 1e-12), error(scores, shares, density) * sizes.max()


def error(scores, shares, density):
    """Of the shares, relative to their sum; infinite where a rounding decides.

    Scores are good to 16 roundings of the largest; next to the quantile, this is all
    of a share or nothing.
    """
    ordered = np.sort(scores, axis=1)
    least = ordered[:, int(scores.shape[1] * (1 - density))][:, None]
    rounding = 16 * 2**-23 * np.abs(scores).max(axis=1, keepdims=True)
    unsure = np.abs(scores - least) <= rounding
    each = (rounding / (ordered[:, -1:] - least)).sum(axis=0)
    votes = shares.sum(axis=0)
    relative = 2 * each / np.where(votes > 0, votes, np.inf)
    return np.where(unsure.any(axis=0), np.inf, relative) + 8 * 2**-23


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("clip", [1e-4, 0.05])
def test_is_the_release(seed, k, density, clip):
    deltas = model(grid, seed, k)
    weights = np.arange(1, k + 1) / k
    want, bound = oracle(flat(deltas), density, clip, weights)
    got = merged(pcb(density, clip, weights=weights), deltas)
    assert (np.abs(np.asarray(got) - 1.2 * want) <= 1.2 * bound).all()
    assert (bound < 1e-3).mean() > 0.8


def test_experts_without_a_choice_have_no_share():
    """One entry, or all alike: the smallest score that counts is the largest."""
    for d in (np.float32([[2]]), np.ones((2, 5), np.float32), np.zeros((2, 5))):
        np.testing.assert_array_equal(merged(pcb(), {"w": np.float32(d)}), 0 * d[0])


@pytest.mark.parametrize(
    "numbers, text",
    [({"density": 10}, "density is a fraction"), ({"clip": 0.6}, r"clip is .*0, 0\.5")],
)
def test_ranges(numbers, text):
    with pytest.raises(ValueError, match=f"pcb.*{text}"):
        pcb(**numbers)


def test_there_is_a_weight_for_each_expert():
    with pytest.raises(ValueError, match=r"has shape \(3,\), there are 2 experts"):
        merged(pcb(weights=[1.0, 2.0, 3.0]), model(grid, 0, 2))


@pytest.mark.parametrize("seed", range(2))
def test_slopes_are_those_of_the_release(seed):
    """The bounds move with the entries that they are, wherever in the model."""
    draw = np.random.default_rng(seed)
    shapes = {"a.weight": (3, 6, 9), "b.bias": (3, 7)}
    deltas, pushes = (
        {name: draw.normal(size=shape) for name, shape in shapes.items()}
        for _ in range(2)
    )
    method, numbers = pcb(0.5, 0.05), (0.5, 0.05, np.ones(3))
    _, bound = oracle(flat(deltas), *numbers)
    cotangent = np.where(
        bound < 1e-3, draw.normal(size=bound.size), 0
    )  # no rounding decides
    assert (cotangent != 0).mean() > 0.8

    def want(h):
        return 1.2 * oracle(flat(deltas) + h * flat(pushes), *numbers)[0] @ cotangent

    with jax.enable_x64(True):
        slope = jax.grad(lambda d: merged(method, d) @ cotangent)(deltas)
        got = sum((slope[name] * pushes[name]).sum() for name in deltas)
    # Slopes are divided by the span of the scores once more than values.
    step = 1e-6
    assert got == pytest.approx((want(step) - want(-step)) / (2 * step), rel=1e-3)
