"""Iso-C against NumPy's SVD in float64, fusion-bench, and the property it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_golden, golden
from helpers import assert_close, grid

from mda_jax import Role, Side, merge, trees
from mda_jax.methods import iso_c


@jax.jit
def merged(d):
    return iso_c()(d, Side(d[0]))


@pytest.mark.parametrize(
    "k, shape", [(3, (4, 6)), (1, (6, 4)), (3, (5, 5)), (1, (3, 1))]
)
def test_is_algorithm_1(k, shape):
    d = grid(k, (k, *shape))
    got = merged(jnp.asarray(d))
    u, s, vt = np.linalg.svd(d.astype(np.float64).sum(0), full_matrices=False)
    # the mean singular value times a polar factor: about s[0] / s[-1] roundings each
    bound = s.mean() * 8 * s[0] / s[-1]
    assert_close(got, (s.mean() * u @ vt)[None], flops=bound)
    flat = np.linalg.svd(np.asarray(got[0], np.float64), compute_uv=False)
    assert_close(flat, np.full(len(s), s.mean()), flops=bound)


def test_a_sum_without_full_rank_keeps_its_null_space():
    a, b = np.zeros((2, 6, 5))
    a[0, 1], b[2, 3] = 3.0, -1.0
    got = iso_c()(jnp.asarray([a, b], jnp.float32), Side(jnp.zeros((6, 5))))
    want = (4 / 5) * (np.sign(a) + np.sign(b))  # both values become (3 + 1 + 0 ...) / 5
    assert_close(got, want[None], flops=8)


def test_other_leaves_take_the_mean():
    d = grid(0, (3, 4, 6))
    for role in (Role.EMBEDDING, Role.POSITION, Role.VECTOR):
        got = iso_c()(jnp.asarray(d), Side(jnp.zeros((4, 6)), role=role))
        assert_close(got, d.astype(np.float64).mean(0, keepdims=True), flops=4)


@pytest.mark.parametrize("dtype, only", [("float32", "wide"), ("float64", "")])
def test_fusion_bench(dtype, only):
    base, experts, expected = golden("iso_c", dtype, only)
    with jax.enable_x64(dtype == "float64"):
        got = merge(base, experts, iso_c(), layout=trees.every_2d)
    assert_golden(got, expected, base, condition=115)  # of the 20 x 20 sum
