"""MDA's frame form: the frame it aligns to, and what remains without the frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from methods.spectral import merged

from mda_jax import Role, chain, primitives as p, stage
from mda_jax.linalg import top_singular_subspaces
from mda_jax.methods import mda_frame, tsv
from mda_jax.methods._mda_frame import simplex_aligned


def oracle(deltas):
    """Section by section with an explicit simplex, from the bases of `linalg`."""
    k, m, n = deltas.shape
    parts = top_singular_subspaces(jnp.asarray(deltas), min(m, n) // k)
    left, core, right = (np.asarray(x) for x in parts)
    size = left.shape[0] * left.shape[2]
    simplex = np.sqrt(size / (size - 1)) * (np.eye(size) - np.ones((size, size)) / size)
    a, _, bt = np.linalg.svd(np.hstack(left) @ simplex.T, full_matrices=False)
    frame = (a[:, : size - 1] @ bt[: size - 1]) @ simplex  # the simplex has rank K - 1
    u, _, vt = np.linalg.svd(np.hstack(right), full_matrices=False)
    cores = np.zeros((size, size))
    for t, c in enumerate(core):
        cores[t * len(c) : (t + 1) * len(c), t * len(c) : (t + 1) * len(c)] = c
    return frame @ cores @ (u @ vt).T


@pytest.mark.parametrize("k, shape", [(2, (7, 5)), (3, (5, 7))])
def test_is_the_frame_reconstruction(k, shape):
    deltas = np.random.default_rng(k).normal(size=(k, *shape))
    with jax.enable_x64(True):
        got, want = merged(mda_frame(), deltas), oracle(deltas)
    # condition numbers of the concatenated bases are below 100
    assert (
        np.abs(got - want).max() <= 8 * 100 * np.finfo(float).eps * np.abs(want).max()
    )


def test_the_left_directions_become_a_simplex():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(9, 6)), jnp.float32)
    frame = np.asarray(simplex_aligned(x), np.float64)
    want = np.where(np.eye(6), 1, -1 / 5)
    assert np.abs(frame.T @ frame - want).max() <= 100 * np.finfo(np.float32).eps


def test_without_the_frame_it_is_tsv():
    deltas = np.random.default_rng(1).normal(size=(3, 5, 7)).astype(np.float32)
    off = chain(
        stage(p.recombined, align_left=Partial(p.orthonormal)), stage(p.scaled, by=1.0)
    )
    np.testing.assert_array_equal(merged(off, deltas), merged(tsv(), deltas))
    assert np.abs(merged(mda_frame(), deltas) - merged(tsv(), deltas)).max() > 0.1


def test_one_expert_changes_by_one_over_root_k():
    """For equal singular values: |E - I|_F / |I|_F of the simplex E of K vertices."""
    size = 6
    q = np.linalg.qr(np.random.default_rng(2).normal(size=(size, size)))[0]
    got = merged(mda_frame(), q[None].astype(np.float32))
    stretch = (size / (size - 1)) ** 0.5 - 1
    want = (((size - 1) * stretch**2 + 1) / size) ** 0.5
    change = np.linalg.norm(got - q) / np.linalg.norm(q)
    assert abs(change - want) <= 100 * np.finfo(np.float32).eps
    assert abs(change - size**-0.5) <= 0.01


def test_one_direction_has_no_frame():
    column = np.asarray([[[1.0], [2.0], [-2.0]]], np.float32)
    got = merged(mda_frame(), column)
    assert np.abs(got - column[0]).max() <= 8 * 2 * np.finfo(np.float32).eps


def test_other_leaves_take_the_mean():
    d = np.random.default_rng(3).normal(size=(3, 4, 6)).astype(np.float32)
    got = merged(mda_frame(), d, role=Role.EMBEDDING)
    assert np.abs(got - d.mean(0)).max() <= 4 * np.finfo(np.float32).eps
