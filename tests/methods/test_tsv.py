"""TSV-M against its algorithm in NumPy's SVD, fusion-bench, and its known cases."""

import jax
import numpy as np
import pytest
from golden import assert_golden, golden
from methods.spectral import merged, near, polar, top

from mda_jax import merge, trees
from mda_jax.methods import tsv


def truncated(x, rank):
    u, s, v = top(x, rank)
    return u * s @ v.T


def oracle(deltas):
    """The authors' loop, with unpadded buffers."""
    rank = min(deltas.shape[1:]) // len(deltas)
    left, values, right = [], [], []
    for d in deltas:
        u, s, v = top(d, rank)
        left.append(u), values.append(s), right.append(v)
    u, v = polar(np.hstack(left)), polar(np.hstack(right))
    return u * np.concatenate(values) @ v.T


@pytest.mark.parametrize("k, shape", [(1, (6, 6)), (2, (7, 5)), (4, (5, 7))])
def test_is_the_algorithm_in_float64(k, shape):
    deltas = np.random.default_rng(k).normal(size=(k, *shape))
    with jax.enable_x64(True):
        # singular gaps and bases of these inputs have condition numbers below 100
        near(merged(tsv(), deltas), oracle(deltas), roundings=8 * 100)


def test_is_the_algorithm_in_float32():
    deltas = np.random.default_rng(0).normal(size=(2, 6, 5)).astype(np.float32)
    near(merged(tsv(), deltas), oracle(deltas.astype(np.float64)), roundings=8 * 100)


@pytest.mark.parametrize("case", ["one expert", "identical", "zero", "orthogonal"])
def test_known_results(case):
    x, y = np.random.default_rng(3).normal(size=(2, 6, 5)).astype(np.float32)
    blocks = np.zeros((2, 6, 5), np.float32)
    blocks[0, :3, :2], blocks[1, 3:, 2:4] = x[:3, :2], y[3:, 2:4]
    deltas, want = {
        "one expert": ([x], x),
        "identical": ([x, x], truncated(x, 2)),
        "zero": ([x, 0 * x], truncated(x, 2)),
        "orthogonal": (blocks, blocks[0] + blocks[1]),
    }[case]
    near(merged(tsv(), np.asarray(deltas)), want, roundings=8 * 50)


def test_directions_without_weight_take_no_part():
    """Rank-one experts: only their own directions are made orthonormal."""
    rng = np.random.default_rng(4)
    u, v = rng.normal(size=(6, 2)), rng.normal(size=(5, 2))
    deltas = np.stack([np.outer(u[:, i], v[:, i]) for i in range(2)])
    sizes = np.linalg.norm(u, axis=0) * np.linalg.norm(v, axis=0)
    unit = polar(u / np.linalg.norm(u, axis=0)), polar(v / np.linalg.norm(v, axis=0))
    near(
        merged(tsv(), deltas.astype(np.float32)),
        unit[0] * sizes @ unit[1].T,
        roundings=8 * 50,
    )


def test_more_experts_than_directions():
    deltas = np.random.default_rng(5).normal(size=(4, 3, 2)).astype(np.float32)
    got = merged(tsv(), deltas)
    assert np.isfinite(got).all() and np.abs(got).max() > 0.1


@pytest.mark.parametrize("dtype, only", [("float32", "wide"), ("float64", "")])
def test_fusion_bench(dtype, only):
    base, experts, expected = golden("tsvm", dtype, only)
    with jax.enable_x64(dtype == "float64"):
        got = merge(base, experts, tsv(), layout=trees.every_2d)
    assert_golden(got, expected, base, condition=31)  # of the concatenated bases
