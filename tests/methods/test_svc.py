"""SVC against its formula in NumPy's SVD, fusion-bench, and its known cases."""

import jax
import numpy as np
import pytest
from golden import assert_golden, golden
from methods.spectral import merged, near

from mda_jax import Role, merge, trees
from mda_jax.methods import svc, task_arithmetic, tsv


SUM = task_arithmetic(scale=1.0)


def oracle(x, deltas, floor):
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    factors = []
    for i in range(len(s)):
        along = u[:, i] @ x
        shares = [along @ (u[:, i] @ d) / np.sum((u[:, i] @ d) ** 2) for d in deltas]
        factors.append(len(deltas) / np.maximum(shares, floor).sum())
    return u * (factors * s) @ vt


@pytest.mark.parametrize("shape", [(6, 6), (7, 5), (5, 7)])
@pytest.mark.parametrize("floor", [0.1, 0.8])
def test_is_the_formula_in_float64(shape, floor):
    deltas = np.random.default_rng(1).normal(size=(3, *shape))
    with jax.enable_x64(True):
        got = merged(svc(SUM, floor=floor), deltas)
    # gaps between singular values of these sums are above 1 % of the largest
    near(got, oracle(deltas.sum(0), deltas, floor), roundings=8 * 100)


def test_identical_experts_are_counted_once():
    x = np.random.default_rng(2).normal(size=(5, 6)).astype(np.float32)
    near(merged(svc(SUM), [x, x, x]), x, roundings=8 * 100)


def test_orthogonal_experts_stay_for_a_floor_of_one():
    blocks = np.zeros((2, 6, 5), np.float32)
    draw = np.random.default_rng(3).normal(size=(2, 3, 2))
    blocks[0, :3, :2], blocks[1, 3:, 2:4] = draw
    near(merged(svc(SUM, floor=1.0), blocks), blocks.sum(0), roundings=8 * 100)


def test_other_leaves_stay_as_they_were_merged():
    d = np.random.default_rng(4).normal(size=(3, 4, 6)).astype(np.float32)
    got = merged(svc(tsv(), scale=0.5), d, role=Role.EMBEDDING)
    near(got, 0.5 * merged(tsv(), d, role=Role.EMBEDDING), roundings=2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fusion_bench(dtype):
    base, experts, expected = golden("svc", dtype)
    with jax.enable_x64(dtype == "float64"):
        got = merge(base, experts, svc(), layout=trees.every_2d)
    assert_golden(got, expected, base, condition=115)  # of the sums of deltas
