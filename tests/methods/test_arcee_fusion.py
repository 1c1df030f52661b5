"""Arcee Fusion against its formula in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid

from mda_jax import Side, merge, primitives as p
from mda_jax.methods import arcee_fusion


def softmax(row):
    return np.exp(row) / np.exp(row).sum() + 1e-8


def importance(base, expert):
    a, b = (x.astype(np.float64).reshape(-1, *x.shape[-1:]) for x in (base, expert))
    scores = np.zeros_like(a)
    for i, (x, y) in enumerate(zip(b, a, strict=True)):
        of, to = softmax(x), softmax(y)
        scores[i] = abs(x - y) * (of * np.log(of / to)).sum()
    return scores.reshape(base.shape)


def oracle(base, expert):
    scores = importance(base, expert)
    rising = sorted(scores.ravel())
    low, median, high = (rising[int(q * (len(rising) - 1))] for q in (0.25, 0.5, 0.75))
    threshold = median + 1.5 * (high - low)
    return np.where(scores >= threshold, expert, base), scores / threshold


@jax.jit
def merged(base, expert):
    return base + arcee_fusion()((expert - base)[None], Side(base))[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(7,), (4, 60), (2, 3, 50)])
@pytest.mark.parametrize("size", [1.0, 2.0**-10])
def test_is_the_formula(seed, shape, size):
    base = grid(seed, shape)
    expert = (base + size * grid(seed + 10, shape)).astype(np.float32)
    got = merged(jnp.asarray(base), jnp.asarray(expert))
    want, distance = oracle(base, expert)
    # a divergence of 1e-6 has three digits in float32: the softmaxes have seven
    clear = np.abs(distance - 1) > 1e-2
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(np.asarray(got)[clear], want[clear])


def test_takes_few_entries():
    base, expert = grid(0, (20, 50)), grid(1, (20, 50))
    taken = np.mean(merged(jnp.asarray(base), jnp.asarray(expert)) != base)
    assert 0 < taken < 0.2


def test_a_scalar_is_the_experts():
    """Its softmax is 1 whatever its value: nothing is more important."""
    assert merged(jnp.float32(1.0), jnp.float32(3.0)) == 3


def test_peaked_rows_are_finite_and_the_most_important():
    base = np.zeros((8, 4), np.float32)
    expert = base + np.float32(2.0**-10) * grid(1, (8, 4))
    expert[2, 1] = 100
    got = merged(jnp.asarray(base), jnp.asarray(expert))
    assert got[2, 1] == 100 and jnp.isfinite(got).all()
    back = merged(jnp.asarray(expert), jnp.asarray(base))
    assert back[2, 1] == 0 and jnp.isfinite(back).all()


def test_the_dtype_is_that_of_the_base():
    base, expert = ({"w": jnp.asarray(grid(i, (4, 6)), jnp.bfloat16)} for i in (0, 1))
    assert merge(base, [expert], arcee_fusion())["w"].dtype == jnp.bfloat16


def test_merges_one_expert():
    with pytest.raises(ValueError, match="arcee_fusion: merges exactly 1 expert"):
        arcee_fusion()(jnp.ones((2, 3)), Side(jnp.ones(3)))


@pytest.mark.parametrize("n", [1, 2, 63, 100])
def test_the_kth_smallest_is_that_of_a_sort(n):
    x = np.abs(grid(n, (n,)))  # many are equal
    places = {0, n // 4, n // 2, n - 1}
    got = [float(p.kth_smallest(jnp.asarray(x), k)) for k in sorted(places)]
    assert got == [np.sort(x)[k] for k in sorted(places)]
