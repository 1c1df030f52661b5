"""Order statistics over several weights, against a sort of all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid

from mda_jax import primitives as p


TINY = np.finfo(np.float32).smallest_subnormal


def normal(seed, shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def wide(seed, shape):
    """Every exponent that float32 has, denormals among them."""
    bits = np.random.default_rng(seed).integers(0, 0x7F800000, shape, np.uint32)
    return bits.view(np.float32) * np.sign(normal(seed, shape))


def tiny(seed, shape):
    return TINY * np.random.default_rng(seed).integers(-9, 9, shape).astype(np.float32)


def equal(seed, shape):
    return np.full(shape, -0.7, np.float32)


def added(counts):
    return jax.tree.map(lambda *words: sum(words), *counts)


@jax.jit
def found(weights, at):
    upper = added([p.upper_counts(x) for x in weights])
    lower = added([p.lower_counts(x, upper, at) for x in weights])
    return p.order_statistics(upper, lower, at)


@pytest.mark.parametrize("draw", [normal, grid, wide, tiny, equal])
@pytest.mark.parametrize("seed", range(3))
def test_are_those_of_a_partition(draw, seed):
    shapes = [(2, 5, 7), (2, 60), (2,)]
    weights = [draw(10 * seed + i, shape) for i, shape in enumerate(shapes)]
    rows = np.concatenate([x.reshape(2, -1) for x in weights], axis=1)
    at = np.array([0, 1, 31, 64, 95])
    want = np.partition(rows, at, axis=1)[:, at]
    got = found([jnp.asarray(x) for x in weights], jnp.asarray(at, jnp.float32))
    np.testing.assert_array_equal(got, want)


def test_places_outside_are_the_first_and_the_last():
    x = jnp.asarray(normal(0, (1, 9)))
    got = found([x], jnp.array([-3.0, 9.0, jnp.inf]))
    np.testing.assert_array_equal(got[0], [x.min(), x.max(), x.max()])


def test_one_entry():
    x = jnp.array([[-2.0]])
    np.testing.assert_array_equal(found([x], jnp.array([0.0, 1.0])), [[-2.0, -2.0]])


def test_float64_is_looked_at_in_float32():
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 50)))
        got = found([x], jnp.array([7.0]))
        want = np.sort(np.asarray(x, np.float32))[:, 7:8]
        np.testing.assert_array_equal(got, want)


def test_counts_go_beyond_32_bits():
    """Three entries, each as often as in 2**17 weights of 2**24 entries."""
    many, each = 2**17, p.counted(jnp.int32(2**24))
    times = jax.tree.map(lambda word: word * many, each)
    bins = jnp.array([7, 40_000, 65_535])

    def histogram(at):
        return jax.tree.map(lambda w: jnp.zeros(65_536, jnp.int32).at[at].set(w), times)

    upper = jax.tree.map(lambda w: w[None], histogram(bins))
    lower = jax.tree.map(lambda w: w[None, None], histogram(5))
    n = float(many) * 2**24
    assert p.entries(upper) == 3 * n
    for place, bin in ((0.0, 7), (n - 2**20, 7), (n, 40_000), (3 * n - 2**20, 65_535)):
        got = p.order_statistics(upper, lower, jnp.array([place]))
        number = np.asarray(got).view(np.uint32).item()
        number = number ^ 1 << 31 if not number >> 31 else number ^ (1 << 32) - 1
        assert number == (bin << 16) + 5, place


@pytest.mark.parametrize("n", [-(2**31) + 1, -4097, -1, 0, 1, 4095, 2**31 - 1])
def test_counts_have_signs(n):
    once = p.counted(jnp.int32(n))
    assert p.sign_of_count(once) == np.sign(n)
    back = p.counted(jnp.int32(-n))
    assert p.sign_of_count(jax.tree.map(jnp.add, once, back)) == 0
    twice = jax.tree.map(jnp.add, once, once)
    assert p.sign_of_count(twice) == np.sign(n)


def test_reaching_tells_denormals_apart():
    x = jnp.asarray(np.array([[0, 1, 2, 3], [-1, 0, 5, 9]], np.float32) * TINY)
    least = jnp.asarray(np.array([2, 0], np.float32) * TINY)
    got = p.reaching(x, least).tolist()
    assert got == [[False, False, True, True], [False, True, True, True]]


def test_the_slope_is_that_of_the_entry_or_of_equal_ones_their_mean():
    at = jnp.array([0.0, 2.0, 4.0])

    def statistics(x, y):
        upper = added([p.upper_counts(z) for z in (x, y)])
        lower = added([p.lower_counts(z, upper, at) for z in (x, y)])
        sums = p.lower_sums(x, upper, at) + p.lower_sums(y, upper, at)
        found = p.order_statistics(upper, lower, at, sums)[0]
        return (found * jnp.array([1.0, 6.0, 10.0])).sum()

    weights = jnp.array([[3.0, -1.0]]), jnp.array([[3.0, 7.0, 3.0]])
    value, (x, y) = jax.jit(jax.value_and_grad(statistics, (0, 1)))(*weights)
    assert value == -1 + 6 * 3 + 10 * 7
    np.testing.assert_allclose(x, [[2, 1]], rtol=1e-6)  # 6 / 3
    np.testing.assert_allclose(y, [[2, 10, 2]], rtol=1e-6)
