"""No merge depends on the signs or the algorithm of a decomposition."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import as_stage, grid

from mda_jax import Role, Side, methods
from mda_jax.linalg import Subspaces, _lapack, _subspaces
from mda_jax.linalg._signs import leading_signs


TASKS, ROWS, COLUMNS = 3, 7, 5
eigh, qr = _lapack.eigh, _lapack.qr


def signs(columns):
    """Some of either kind, others than those that LAPACK happened to pick."""
    each = jnp.where(jnp.arange(columns.shape[-1]) % 3 == 1, 1.0, -1.0)
    return jnp.broadcast_to(each, (*columns.shape[:-2], 1, columns.shape[-1]))


def flipped_eigh(x):
    values, v = eigh(x)
    return values, v * signs(v)


def flipped_qr(x):
    q, r = qr(x)
    return q * signs(q), r * signs(q).mT


def by_svd(rank, x):
    """The subspaces from LAPACK's own decomposition."""
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    fixed = leading_signs(u[..., :rank])
    left, right = u[..., :rank] * fixed, vt.mT[..., :rank] * fixed
    return Subspaces(left, left.mT @ x @ right, right), vt.mT, s**2


CONVENTIONS = {
    "flipped eigenvectors": [(_lapack, "eigh", flipped_eigh)],
    "flipped QR": [(_lapack, "qr", flipped_qr)],
    "SVD for the Gram form": [(_subspaces, "_with_spectrum", by_svd)],
}


DECOMPOSING = "dc_merge iso_cts mda_frame mda_project mda_task_frame svc tsv".split()


def program(name):
    k = methods.experts_of(name) or TASKS
    deltas = jnp.asarray(grid(1, (k, ROWS, COLUMNS)))
    base = jnp.asarray(grid(2, (ROWS, COLUMNS)))
    side = Side(base, jax.random.key(0), role=Role.MATRIX)
    method = getattr(methods, name)()
    return jax.jit(lambda x: as_stage(method, x)(x, side).sum(0)), deltas


def merged(name):
    f, deltas = program(name)
    return f(deltas)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("name", DECOMPOSING)
def test_merges_alike_under_other_conventions(name, convention, monkeypatch):
    usual = merged(name)
    for patch in CONVENTIONS[convention]:
        monkeypatch.setattr(*patch)
    other = merged(name)
    # Forming x^T x and taking roots loses eps (s_1 / s_r)^2: below 1e-4 here.
    np.testing.assert_allclose(other, usual, atol=1e-4)


@pytest.mark.parametrize("name", sorted(set(methods.names) - set(DECOMPOSING)))
def test_all_other_methods_decompose_nothing(name):
    f, deltas = program(name)
    assert not re.search(r"= (eigh|qr|svd)\[", str(f.trace(deltas).jaxpr))
