"""LoRA experts in core space."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from methods.spectral import merged

from mda_jax import primitives as p, stage
from mda_jax.methods import iso_c


K, M, N, R = 3, 20, 16, 2
EPS = np.finfo(np.float32).eps


def factors(seed):
    draw = np.random.default_rng(seed)
    up, down = draw.normal(size=(K, M, R)), draw.normal(size=(K, R, N))
    return jnp.asarray(up, jnp.float32), jnp.asarray(down, jnp.float32)


def full(up, down):
    return np.asarray(jnp.matmul(up, down, precision="highest"))


@pytest.mark.parametrize("dependent", [False, True])
def test_lifted_cores_are_the_deltas(dependent):
    up, down = factors(0)
    if dependent:
        up = up.at[1].set(up[0])
    space = p.core_space(up, down)
    assert space.cores.shape == (K, K * R, K * R)
    want = full(up, down)
    gap = np.abs(np.asarray(space.lifted(space.cores)) - want).max()
    assert gap <= 100 * EPS * np.abs(want).max()


def test_merging_singular_subspaces_commutes_with_lifting():
    up, down = factors(1)
    space = p.core_space(up, down)
    method = stage(
        p.recombined, align_left=Partial(p.orthonormal), rank=Partial(lambda d: R)
    )
    got = space.lifted(jnp.asarray(merged(method, space.cores))[None])[0]
    want = merged(method, full(up, down))
    assert np.abs(got - want).max() <= 500 * EPS * np.abs(want).max()


def test_a_flat_spectrum_counts_the_directions_of_the_space():
    """`iso_c` averages over min(m, n) directions, in core space over k r."""
    up, down = factors(2)
    space = p.core_space(up, down)
    small = jnp.asarray(merged(iso_c(), space.cores))[None]
    got = np.asarray(space.lifted(small))[0] * K * R / min(M, N)
    want = merged(iso_c(), full(up, down))
    assert np.abs(got - want).max() <= 1e4 * EPS * np.abs(want).max()


def test_least_squares_commute_with_lifting():
    """The weight of the rest is ridge k / n, with the n of the space."""
    up, down = factors(3)
    space = p.core_space(up, down)
    whole = jnp.asarray(full(up, down))
    ridge = 0.5 * K * R / N
    small = p.directional_least_squares(space.cores, p.mean(space.cores), ridge)
    got = np.asarray(space.lifted(small))
    want = np.asarray(p.directional_least_squares(whole, p.mean(whole), 0.5))
    assert np.abs(got - want).max() <= 1e3 * EPS * np.abs(want).max()
