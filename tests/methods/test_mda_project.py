"""MDA's projection form: against its steps in NumPy, and what a projection is."""

import jax
import numpy as np
import pytest
from methods.spectral import merged

from mda_jax import Role
from mda_jax.methods import mda_project


def run(deltas, role=None):
    return merged(mda_project(scale=1.0), deltas, role)


def projector(deltas):
    """On what the centred polar factor of the experts' signed directions spans."""
    k, rank = len(deltas), max(1, min(deltas.shape[1:]) // len(deltas))
    bases = [np.linalg.svd(d)[0][:, :rank] for d in deltas]
    columns = np.hstack([u * np.sign(u[abs(u).argmax(0), range(rank)]) for u in bases])
    if k * rank > 1:
        columns = columns - columns.mean(1, keepdims=True)
    u, s, _ = np.linalg.svd(columns, full_matrices=False)
    u = u[:, s > 1e-9 * s[0]]
    return u @ u.T


@pytest.mark.parametrize("k, shape", [(2, (7, 5)), (3, (5, 7)), (3, (3, 2))])
def test_is_the_projection_of_the_sum(k, shape):
    deltas = np.random.default_rng(k).normal(size=(k, *shape))
    with jax.enable_x64(True):
        got = run(deltas)
    want = projector(deltas) @ deltas.sum(0)
    # condition numbers of the concatenated bases are below 100
    bound = 8 * 100 * np.finfo(float).eps * np.abs(want).max()
    assert np.abs(got - want).max() <= bound


def test_one_direction_has_no_frame():
    column = np.asarray([[[1.0], [2.0], [-2.0]]], np.float32)
    assert np.abs(run(column) - column[0]).max() <= 16 * np.finfo(np.float32).eps


def test_other_leaves_take_the_mean():
    d = np.random.default_rng(3).normal(size=(3, 4, 6)).astype(np.float32)
    got = run(d, role=Role.EMBEDDING)
    assert np.abs(got - d.mean(0)).max() <= 4 * np.finfo(np.float32).eps
