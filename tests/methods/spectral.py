"""NumPy's decompositions, and how far a merge may be from an oracle made of them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mda_jax import Side


def top(x, rank):
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    return u[:, :rank], s[:rank], vt[:rank].T


def polar(x):
    u, _, vt = np.linalg.svd(x, full_matrices=False)
    return u @ vt


@partial(jax.jit, static_argnames="role")
def _merged(method, d, role):
    return method(d, Side(d[0], role=role))[0]


def merged(method, deltas, role=None):
    """The one row that a stage makes of the deltas of one weight."""
    return np.asarray(_merged(method, jnp.asarray(deltas), role))


def near(got, want, roundings):
    """Within so many roundings of the largest entry."""
    bound = roundings * np.finfo(got.dtype).eps * np.abs(want).max()
    assert np.abs(got - want).max() <= bound
