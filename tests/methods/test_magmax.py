"""MagMax, one entry at a time, and outputs of fusion-bench 0.2.33."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid

from mda_jax import Side, merge
from mda_jax.methods import magmax


FILE = Path(__file__).parent / "golden/fusion_bench_magmax.npz"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k, shape", [(1, (7,)), (3, ()), (5, (4, 6)), (2, (3, 2, 4))])
def test_takes_the_largest_and_the_later_of_equals(seed, k, shape):
    d = np.round(4 * grid(seed, (k, *shape)))  # full of equal magnitudes
    flat = d.reshape(k, -1)
    want = [max(reversed(column), key=abs) for column in flat.T]
    got = magmax(0.5)(jnp.asarray(d), Side(jnp.zeros(shape)))
    np.testing.assert_array_equal(got, 0.5 * np.reshape(want, (1, *shape)))


def test_order_decides_only_between_opposite_signs():
    d = jnp.asarray([[1.0, 2.0], [-1.0, 2.0]])
    side = Side(d[0])
    np.testing.assert_array_equal(magmax(1.0)(d, side), [[-1.0, 2.0]])
    np.testing.assert_array_equal(magmax(1.0)(d[::-1], side), [[1.0, 2.0]])


@pytest.mark.parametrize("case, dtype", [("plain", "float64"), ("ties", "float32")])
def test_fusion_bench(case, dtype):
    with np.load(FILE) as file, jax.enable_x64(dtype == "float64"):
        base, experts, expected = (
            jnp.asarray(file[f"{case}/{part}"], dtype)
            for part in ("base", "experts", "expected")
        )
        got = merge(base, list(experts), magmax(0.5))
        np.testing.assert_array_equal(got, expected)
