"""Selection against a stable sort, on data full of ties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid
from methods.sparsified import band

from mda_jax import primitives as p


keep_count, keep_largest = jax.jit(p.keep_count), jax.jit(p.keep_largest)


def oracle(d, counts):
    """Keep the first of a stable sort by falling magnitude, row by row."""
    flat = d.reshape(len(d), -1)
    kept = np.zeros_like(flat)
    for row, out, count in zip(flat, kept, counts, strict=True):
        order = sorted(range(row.size), key=lambda i: (-abs(row[i]), i))
        for i in order[:count]:
            out[i] = row[i]
    return kept.reshape(d.shape)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(1,), (7,), (4, 60)])
def test_keeps_exactly_the_largest_and_the_earlier_of_equals(seed, shape):
    d = grid(seed, (3, *shape))
    n = d[0].size
    counts = np.random.default_rng(seed).integers(1, n + 1, size=3)
    got = keep_count(jnp.asarray(d), count=jnp.asarray(counts))
    np.testing.assert_array_equal(got, oracle(d, counts))


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("n", [1, 2, 63, 100])
def test_density_keeps_the_rounded_share_and_one_at_least(density, n):
    d = jnp.asarray(np.random.default_rng(n).permutation(n) + 1.0, jnp.float32)
    kept = np.count_nonzero(keep_largest(d[None], density=density))
    assert kept == max(1, round(density * n))


def test_density_may_be_traced_swept_and_differ_by_row():
    d = jnp.asarray(grid(0, (2, 40))) + 3
    rows = keep_largest(d, density=jnp.array([0.25, 0.5]))
    assert np.count_nonzero(rows, axis=1).tolist() == [10, 20]
    swept = jax.vmap(lambda x: keep_largest(d, density=x))(jnp.array([0.25, 0.5]))
    np.testing.assert_array_equal(swept[0, 0], rows[0])
    np.testing.assert_array_equal(swept[1, 1], rows[1])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_other_float_types_and_extreme_values(dtype):
    tiny, huge = jnp.finfo(dtype).smallest_normal, jnp.finfo(dtype).max
    d = jnp.asarray([[0.0, tiny, -huge, -tiny, 1.0, -jnp.inf]], dtype)
    kept = keep_count(d, count=4)
    np.testing.assert_array_equal(kept != 0, [[False, True, True, False, True, True]])


def test_float64():
    with jax.enable_x64(True):
        d = jnp.asarray([[1.0, 1.0 + 2**-50, -1.0 - 2**-49]])
        assert keep_count(d, count=2)[0, 0] == 0


def test_counts_are_clipped_and_zeros_may_be_kept():
    d = jnp.asarray([[0.0, 2.0, 0.0]])
    np.testing.assert_array_equal(keep_count(d, count=9), d)
    np.testing.assert_array_equal(keep_count(d, count=0), d)


def test_nan_is_kept_so_that_it_shows():
    d = jnp.asarray([[1.0, jnp.nan, 3.0]])
    assert jnp.isnan(keep_count(d, count=1)[0, 1])


def test_the_gradient_is_that_of_the_kept_entries():
    d = jnp.asarray([[1.0, -3.0, 2.0, 0.0]])
    slope = jax.grad(lambda x: keep_count(x, count=2).sum())(d)
    np.testing.assert_array_equal(slope, [[0, 1, 1, 0]])


@pytest.mark.parametrize("shape", [(), (1,), (7,), (4, 60), (2, 3, 5)])
@pytest.mark.parametrize(
    "density, outliers",
    [(0.9, 0.01), (0.5, 0.25), (0.25, 0), (0.875, 0.5), (0.125, 1.0), (1.0, 0.5)],
)
def test_a_band_leaves_out_both_ends(shape, density, outliers):
    d = grid(1, (3, *shape))
    got = jax.jit(p.keep_band)(jnp.asarray(d), density=density, outliers=outliers)
    np.testing.assert_array_equal(got, band(d, density, outliers))


def test_bands_may_differ_by_row():
    d = jnp.asarray(np.arange(1.0, 9)[None] * np.ones((2, 1)), jnp.float32)
    density, outliers = jnp.array([0.5, 0.25]), jnp.array([0.25, 0.5])
    kept = p.keep_band(d, density=density, outliers=outliers)
    np.testing.assert_array_equal(kept[0], [0, 0, 3, 4, 5, 6, 0, 0])
    np.testing.assert_array_equal(kept[1], [0, 0, 3, 4, 0, 0, 0, 0])
