"""A model of several weights, for the methods that look at all of them."""

import jax
import jax.numpy as jnp
import numpy as np

from mda_jax import merge


SHAPES = {
    "a.weight": (4, 6),
    "b.bias": (7,),
    "c": (),
    "d": (2, 3, 4),
    "e.weight": (4, 6),
}
SIZE = sum(int(np.prod(shape)) for shape in SHAPES.values())


def model(draw, seed, k):
    """The k deltas of each weight."""
    each = enumerate(SHAPES.items())
    return {name: draw(100 * seed + i, (k, *shape)) for i, (name, shape) in each}


def flat(deltas):
    """`[k, n]` in float64."""
    rows = [np.reshape(d, (len(d), -1)) for d in deltas.values()]
    return np.concatenate(rows, axis=1).astype(np.float64)


@jax.jit
def merged(method, deltas):
    """The merged deltas, laid end to end."""
    zeros = {name: jnp.zeros_like(d[0]) for name, d in deltas.items()}
    got = merge(zeros, deltas, method)
    return jnp.concatenate([got[name].ravel() for name in deltas])
