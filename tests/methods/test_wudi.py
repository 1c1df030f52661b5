"""WUDI against its loop over experts in NumPy, fusion-bench, and its known cases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_golden, golden
from methods.spectral import merged

from mda_jax import Side, merge, trees
from mda_jax.methods import wudi


def oracle(deltas, steps, rate):
    """Adam as published, on the gradient of the loss as published."""
    x = deltas.sum(0)
    first, second = np.zeros_like(x), np.zeros_like(x)
    for i in range(1, steps + 1):
        gradient = sum(2 * (x - d) @ d.T @ d / (d * d).sum() for d in deltas)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999**i)) + 1e-8
        x = x - rate * first / (1 - 0.9**i) / size
    return x


@pytest.mark.parametrize("k, shape", [(2, (4, 5)), (3, (6, 3))])
def test_is_the_algorithm_in_float64(k, shape):
    deltas = np.random.default_rng(k).normal(size=(k, *shape))
    with jax.enable_x64(True):
        got = merged(wudi(steps=40, rate=0.01), jnp.asarray(deltas))
    # forty steps, each of a dozen roundings
    np.testing.assert_allclose(got, oracle(deltas, 40, 0.01), rtol=0, atol=1e-13)


def test_an_expert_that_changes_nothing_takes_no_part():
    deltas = np.random.default_rng(0).normal(size=(2, 4, 5)).astype(np.float32)
    with_zero = jnp.asarray(np.concatenate([deltas, 0 * deltas[:1]]))
    got, want = merged(wudi(), with_zero), merged(wudi(), jnp.asarray(deltas))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_one_expert_is_returned():
    d = jnp.asarray(np.random.default_rng(1).normal(size=(1, 4, 5)), jnp.float32)
    # The gradient is 0 up to rounding, and Adam's step is at most its rate.
    got = merged(wudi(steps=10, rate=1e-7), d)
    np.testing.assert_allclose(got, d[0], rtol=0, atol=2e-6)


def test_steps_are_checked():
    with pytest.raises(ValueError, match="steps"):
        wudi(steps=0)


def test_fusion_bench():
    """In float64: float32 gradients near 0 have the sign of their rounding."""
    base, experts, expected = golden("wudi", "float64")
    with jax.enable_x64(True):
        got = merge(base, experts, wudi(), layout=trees.every_2d)
    assert_golden(got, expected, base, condition=1)


def test_slopes_hold_the_steps_still():
    deltas = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 5)), jnp.float32)

    @jax.jit
    def slopes(deltas, rate):
        def value(deltas, rate):
            return wudi(rate=rate)(deltas, Side(deltas[0]))[0][1, 2]

        return jax.grad(value, (0, 1))(deltas, rate)

    of_deltas, of_rate = slopes(deltas, 1e-3)
    want = np.zeros((3, 4, 5))
    want[:, 1, 2] = 1
    np.testing.assert_array_equal(of_deltas, want)
    moved = merged(wudi(rate=1e-3), deltas) - deltas.sum(0)
    # the difference of two numbers below 4, over the rate
    bound = 16 * np.finfo(np.float32).eps / 1e-3
    assert abs(of_rate - moved[1, 2] / 1e-3) <= bound and abs(of_rate) > 10
    assert all(np.isfinite(x).all() for x in slopes(0 * deltas, 0.0))
