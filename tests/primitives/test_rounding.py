import jax
import ml_dtypes
import numpy as np
import pytest

from mda_jax import primitives as p


TYPES = [np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)]


def numbers():
    """Of all sizes, subnormal ones of float16 and ties among them."""
    draw = np.random.default_rng(0)
    bits = draw.integers(0, 2**32, 20_000, dtype=np.uint32).view(np.float32)
    sizes = draw.normal(size=20_000) * 10.0 ** draw.uniform(-9, 6, 20_000)
    ties = np.arange(-4096, 4096) * 2.0**-25
    found = np.concatenate([bits, np.float32(sizes), np.float32(ties)])
    normal = (np.abs(found) >= np.finfo(np.float32).tiny) | (found == 0)
    return found[normal | ~np.isfinite(found)]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rounds_like_a_conversion(dtype):
    x = numbers()
    with np.errstate(over="ignore", invalid="ignore"):
        want = x.astype(dtype).astype(np.float32)
    got = jax.jit(lambda x: p.rounded(x, to=dtype))(x)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_no_rounding_is_left_out_by_the_compiler(dtype):
    """XLA leaves out a pair of conversions before a sum, with a barrier or without."""
    x = np.random.default_rng(1).normal(size=(3, 64, 32)).astype(np.float32)

    def energies(x):
        return p.rounded(p.rounded(x * x, to=dtype).sum(1), to=dtype)

    squares = (x * x).astype(dtype).astype(np.float64)
    want = squares.sum(2).astype(dtype).astype(np.float32)
    np.testing.assert_array_equal(jax.jit(jax.vmap(energies))(x), want)
