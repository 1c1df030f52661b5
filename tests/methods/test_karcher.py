"""The Karcher mean against an iteration over whole vectors in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side
from mda_jax.methods import karcher


def oracle(weights, rounds=10, tolerance=1e-5):
    flat = weights.astype(np.float64).reshape(len(weights), -1)
    lengths = np.linalg.norm(flat, axis=1)
    units = [x / n for x, n in zip(flat, lengths, strict=True) if n]
    if not units:
        return np.zeros(weights.shape[1:])
    mean = sum(units) / len(units)
    size = np.linalg.norm(mean)
    mean = units[0] if size < tolerance else mean / size
    for _ in range(rounds):
        tangent = np.zeros_like(mean)
        for u in units:
            cosine = np.clip(u @ mean, -1, 1)
            w = np.arccos(cosine)
            arc = w / np.sin(w) if 0 < w < 3.14 else 1
            tangent += arc * (u - cosine * mean) / len(units)
        far = np.linalg.norm(tangent)
        if far < tolerance:
            break
        mean = np.cos(far) * mean + np.sin(far) / far * tangent
        mean /= np.linalg.norm(mean)
    return (lengths.mean() * mean).reshape(weights.shape[1:])


def merged(base, weights, method):
    base, d = jnp.asarray(base), jnp.asarray(weights - base)
    return base + jax.jit(method)(d, Side(base))[0]


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (2, 3, 5)])
def test_is_the_iteration(k, shape):
    weights = np.abs(grid(k, (k, *shape))) + 0.25 * grid(k + 1, (k, *shape))
    for rounds in (1, 10):
        got = merged(weights[0], weights, karcher(rounds, 1e-6))
        want = np.asarray(oracle(weights, rounds, 1e-6))
        # cosines carry the error of a sum, the mean is a sum of k vectors
        assert_close(got, want, flops=32 * k)


def test_is_where_the_squared_angles_have_no_slope():
    weights = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0, 0.8]], np.float32)
    mean = np.asarray(merged(weights[0], weights, karcher(50, 1e-7)), np.float64)
    slope = np.zeros(3)
    for w in weights:  # of length 1, and so is their mean
        cosine = w @ mean
        slope += np.arccos(cosine) / np.sqrt(1 - cosine**2) * (w - cosine * mean)
    np.testing.assert_allclose(slope, 0, atol=1e-5)


def test_a_large_tolerance_stops_at_the_direction_of_the_mean():
    weights = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.6, 0.0, 0.8]], np.float32)
    mean = weights.mean(0) / np.linalg.norm(weights.mean(0))
    got = merged(weights[0], weights, karcher(50, 0.5))
    np.testing.assert_allclose(got, mean, atol=1e-6)


def test_nearly_parallel_weights_keep_their_digits():
    draw = np.random.default_rng(0)
    weights = (1 + 1e-4 * draw.normal(size=(3, 64))).astype(np.float32)
    assert_close(merged(weights[0], weights, karcher()), oracle(weights), flops=16)


def test_weights_of_zero_count_in_the_length_only():
    weights = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]], np.float32)
    got = merged(weights[1], weights, karcher())
    np.testing.assert_allclose(got, [2, 8 / 3], rtol=1e-6)
    nothing = np.zeros((2, 3), np.float32)
    assert not merged(nothing[0] + 1, nothing, karcher()).any()


def test_opposite_weights_take_the_first_direction():
    weights = np.array([[3.0, 4.0], [-6.0, -8.0]], np.float32)
    got = merged(weights[0], weights, karcher())
    np.testing.assert_allclose(got, [4.5, 6], rtol=1e-6)


def test_rounds_are_at_least_one():
    with pytest.raises(ValueError, match=r"karcher\(rounds=0\)"):
        karcher(0)
