"""MDA's frame over tasks: its geometry, and that bases do not matter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from methods.spectral import merged

from mda_jax import Role
from mda_jax.linalg import procrustes, top_singular_subspaces
from mda_jax.methods import mda_task_frame
from mda_jax.methods._mda_task_frame import spread_over_tasks


EPS = np.finfo(np.float32).eps


def run(deltas, role=None):
    return merged(mda_task_frame(), deltas, role)


def bases(k=3, m=12, rank=4):
    draw = np.random.default_rng(0).normal(size=(k, m, rank))
    return jnp.asarray(np.linalg.qr(draw)[0], jnp.float32)


def oracle(deltas):
    """Step by step, with an explicit simplex over tasks times the identity."""
    k, m, n = deltas.shape
    rank = min(m, n) // k
    parts = [np.linalg.svd(d, full_matrices=False) for d in deltas]
    left = [u[:, :rank] for u, _, _ in parts]
    right = np.hstack([vt[:rank].T for _, _, vt in parts])
    common = np.linalg.svd(np.hstack(left))[0][:, :rank]
    turns = []
    for u in left:
        a, _, bt = np.linalg.svd(u.T @ common)
        turns.append(a @ bt)
    matched = np.hstack([u @ q for u, q in zip(left, turns, strict=True)])
    simplex = np.sqrt(k / (k - 1)) * (np.eye(k) - np.ones((k, k)) / k)
    target = np.kron(simplex, np.eye(rank))
    a, _, bt = np.linalg.svd(matched @ target.T, full_matrices=False)
    kept = (k - 1) * rank  # the rank of the target
    frame = np.split(a[:, :kept] @ bt[:kept] @ target, k, axis=1)
    a, _, bt = np.linalg.svd(right, full_matrices=False)
    v = np.split(a @ bt, k, axis=1)
    return sum(
        f @ q.T * s[:rank] @ w.T
        for f, q, (_, s, _), w in zip(frame, turns, parts, v, strict=True)
    )


@pytest.mark.parametrize("k, shape", [(2, (9, 7)), (3, (8, 10))])
def test_is_the_reconstruction_in_float64(k, shape):
    deltas = np.random.default_rng(k).normal(size=(k, *shape))
    with jax.enable_x64(True):
        got, want = run(deltas), oracle(deltas)
    # condition numbers of matching and concatenated bases are below 1000
    assert np.abs(got - want).max() <= 8e3 * np.finfo(float).eps * np.abs(want).max()


def test_matched_directions_become_a_simplex_over_tasks():
    before = bases()
    common = top_singular_subspaces(jnp.hstack(list(before)), 4).left
    turns = procrustes(before, jnp.broadcast_to(common, before.shape))
    matched = np.asarray(spread_over_tasks(before) @ turns)
    cosines = np.einsum("smi,tmj->stij", matched, matched)
    simplex = np.where(np.eye(3), 1, -1 / 2)
    want = np.einsum("st,ij->stij", simplex, np.eye(4))
    assert np.abs(cosines - want).max() <= 200 * EPS


def test_a_rotation_inside_a_subspace_goes_through():
    draw = np.random.default_rng(1).normal(size=(3, 4, 4))
    turns = jnp.asarray(np.linalg.qr(draw)[0], jnp.float32)
    turned = spread_over_tasks(bases() @ turns)
    assert np.abs(turned - spread_over_tasks(bases()) @ turns).max() <= 1e3 * EPS


def test_one_expert_is_kept():
    d = np.random.default_rng(2).normal(size=(1, 5, 6)).astype(np.float32)
    assert np.abs(run(d) - d[0]).max() <= 400 * EPS * np.abs(d).max()


def test_other_leaves_take_the_mean():
    d = np.random.default_rng(3).normal(size=(3, 4, 6)).astype(np.float32)
    got = run(d, role=Role.EMBEDDING)
    assert np.abs(got - d.mean(0)).max() <= 4 * EPS
