"""Iso-CTS against its algorithm in NumPy's SVD, fusion-bench, and its known cases."""

import jax
import numpy as np
import pytest
from golden import assert_golden, golden
from methods.spectral import merged, near, polar, top

from mda_jax import merge, trees
from mda_jax.methods import iso_c, iso_cts


def oracle(deltas, common):
    k, rank = len(deltas), min(deltas.shape[1:])
    specific = round((rank - int(rank * common)) / k)
    u, s, v = top(deltas.sum(0), rank - specific * k)
    parts = [(u, s, v)]
    parts += [top(d - u @ (u.T @ d), specific) for d in deltas]
    left, values, right = (
        np.concatenate([part[i] for part in parts], axis=-1) for i in range(3)
    )
    return values.sum() / rank * polar(left) @ polar(right).T


@pytest.mark.parametrize("k, shape", [(1, (6, 6)), (2, (9, 7)), (3, (7, 10))])
@pytest.mark.parametrize("common", [0.4, 0.8])
def test_is_the_algorithm_in_float64(k, shape, common):
    deltas = np.random.default_rng(k).normal(size=(k, *shape))
    with jax.enable_x64(True):
        got = merged(iso_cts(common=common), deltas)
        # singular gaps and bases of these inputs have condition numbers below 100
        near(got, oracle(deltas, common), roundings=8 * 100)


@pytest.mark.parametrize("common", [0.0, 1.0])
def test_all_common_is_iso_c_and_none_needs_no_sum(common):
    deltas = np.random.default_rng(4).normal(size=(2, 6, 8)).astype(np.float32)
    got = merged(iso_cts(common=common), deltas)
    assert np.linalg.matrix_rank(got) == 6
    if common == 1:
        near(got, merged(iso_c(), deltas), roundings=8 * 100)


def test_more_experts_than_directions():
    deltas = np.random.default_rng(5).normal(size=(8, 5, 6)).astype(np.float32)
    got = merged(iso_cts(common=0.2), deltas)
    assert np.isfinite(got).all() and np.abs(got).max() > 0.1


def test_the_fraction_is_checked():
    with pytest.raises(ValueError, match=r"common is a number in \[0, 1\]"):
        iso_cts(common=80.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fusion_bench(dtype):
    base, experts, expected = golden("iso_cts", dtype)
    with jax.enable_x64(dtype == "float64"):
        got = merge(base, experts, iso_cts(), layout=trees.every_2d)
    assert_golden(got, expected, base, condition=31)  # of the concatenated bases


def test_what_the_common_directions_leave_of_low_rank_experts_is_rounding():
    """Three experts of rank one: their sum has all directions that there are."""
    draw = np.random.default_rng(6)
    deltas = draw.normal(size=(3, 9, 1)) * draw.normal(size=(3, 1, 8))
    u, s, v = top(deltas.sum(0), 3)
    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            got = merged(iso_cts(), deltas.astype(dtype))
            # eps s_1 / s_3 of the sum, a condition below 30
            near(got, s.sum() / 8 * u @ v.T, roundings=8 * 30)
