"""Vectors of a weight, against NumPy one vector at a time."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import primitives as p


VECTORS = {"whole": p.whole, "rows": p.rows, "columns": p.columns}
SHAPES = [(), (7,), (4, 6), (2, 3, 5)]


def vectors_of(name, x):
    """The vectors of one weight, as rows of a matrix."""
    if name == "whole" or x.ndim < 2:
        return x.reshape(1, -1)
    axis = -1 if name == "rows" else 0
    return np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])


def cosine(x, y):
    if not x.any() or not y.any():
        return 0.0
    return x @ y / np.linalg.norm(x) / np.linalg.norm(y)


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_lengths_units_and_cosines(name, shape):
    d = grid(1, (3, *shape))
    x, axes = jnp.asarray(d), VECTORS[name](jnp.asarray(d))
    each = [vectors_of(name, row) for row in d.astype(np.float64)]
    lengths = np.linalg.norm(each, axis=-1)
    assert_close(p.length(x, axes).reshape(lengths.shape), lengths, flops=8)
    units = np.stack([vectors_of(name, u) for u in np.asarray(p.unit(x, axes))])
    assert_close(units * lengths[..., None], np.stack(each), flops=16)
    want = [[list(map(cosine, a, b)) for b in each] for a in each]
    gram = p.gram(x, axes)
    got = p.cosines(gram)
    assert_close(got.reshape(3, 3, -1), np.array(want), flops=32)
    pairs = np.array([want[i][j] for i, j in itertools.combinations(range(3), 2)])
    mean = p.mean_cosine(gram).reshape(-1)
    assert_close(mean, pairs.mean(0), flops=32)
    # arccos turns an error e of a cosine near 1 into up to sqrt(2 e), cos turns it back
    angles = p.cosine_of_mean_angle(gram).reshape(-1)
    want = np.cos(np.arccos(np.clip(pairs, -1, 1)).mean(0))
    np.testing.assert_allclose(angles, want, rtol=0, atol=1e-3 if shape == () else 1e-5)


def test_vectors_of_zero_have_length_zero_and_no_direction():
    x = jnp.asarray([[0.0, 0.0], [3.0, 4.0]])
    axes = p.whole(x)
    np.testing.assert_array_equal(p.length(x, axes), [[0], [5]])
    np.testing.assert_array_equal(p.unit(x, axes)[0], [0, 0])
    np.testing.assert_array_equal(p.cosine(p.gram(x, axes)), [[0]])
    np.testing.assert_array_equal(p.cosine_or_one(p.gram(x, axes)), [[1]])
    np.testing.assert_allclose(
        p.cosine_or_one(p.gram(x[jnp.array([1, 1])], axes)), 1, rtol=1e-6
    )


@pytest.mark.parametrize("f", [p.length, p.unit])
def test_gradients_at_zero_are_finite(f):
    x = jnp.zeros((2, 3))
    assert jnp.isfinite(jax.grad(lambda x: f(x, p.whole(x)).sum())(x)).all()


def test_roots_and_angles_have_gradients_at_their_ends():
    ends = jnp.asarray([-1.0, 0.0, 1.0])
    np.testing.assert_allclose(p.angle(ends), [np.pi, np.pi / 2, 0], rtol=1e-6)
    np.testing.assert_array_equal(p.root(ends), [0, 0, 1])
    for f in (p.angle, p.root):
        assert jnp.isfinite(jax.grad(lambda x, f=f: f(x).sum())(ends)).all()


def test_shares_of_an_arc():
    """Thirds of a right angle; nearly parallel vectors take a straight line."""
    cosine = jnp.asarray([[0.0], [0.9999], [-0.9999], [1.0]])
    first, second = p.slerp_shares(cosine, 1 / 3, straight=0.9995)
    want = [[np.sin(np.pi / 3)], [2 / 3], [2 / 3], [2 / 3]]
    np.testing.assert_allclose(first, want, rtol=1e-6)
    want = [[np.sin(np.pi / 6)], [1 / 3], [1 / 3], [1 / 3]]
    np.testing.assert_allclose(second, want, rtol=1e-6)
