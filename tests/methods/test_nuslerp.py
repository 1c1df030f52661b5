"""NuSLERP against its formula in float64, one vector at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side, primitives as p
from mda_jax.methods import nuslerp


VECTORS = {"whole": p.whole, "rows": p.rows, "columns": p.columns}


def arc(a, b, t):
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = a @ b / norms if norms else 1.0
    if 1 - abs(cosine) < 1e-6:
        return (1 - t) * a + t * b
    w = np.arccos(cosine)
    return (np.sin((1 - t) * w) * a + np.sin(t * w) * b) / np.sin(w)


def oracle(d, t, name):
    a, b = d.astype(np.float64)
    if name == "whole" or a.ndim < 2:
        return arc(a.ravel(), b.ravel(), t).reshape(1, *a.shape)
    axis = -1 if name == "rows" else 0
    ends = [np.moveaxis(x, axis, -1) for x in (a, b)]
    merged = np.zeros(ends[0].shape)
    for i in np.ndindex(merged.shape[:-1]):
        merged[i] = arc(ends[0][i], ends[1][i], t)
    return np.moveaxis(merged, -1, axis)[None]


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (2, 4, 5)])
def test_is_the_formula(name, shape):
    d = grid(3, (2, *shape))
    for weights, t in (([1.0, 3.0], 0.75), (None, 0.5), ([1.0, -1.0], 0.5)):
        method = nuslerp(weights, vectors=VECTORS[name])
        got = jax.jit(method)(jnp.asarray(d), Side(d[0]))
        # an error of the cosine is divided by the squared sine, 0.1 or more here
        assert_close(got, oracle(d, t, name), flops=64)


def test_is_linear_beside_a_delta_of_zero():
    d = jnp.asarray(grid(1, (2, 5))).at[1].set(0)
    got = nuslerp([0.4, 0.6])(d, Side(d[0]))
    np.testing.assert_allclose(got, 0.4 * d[:1], rtol=1e-6)
    got = nuslerp([0.4, 0.6], cosine=p.cosine)(d, Side(d[0]))
    np.testing.assert_allclose(got, np.sin(0.2 * np.pi) * d[:1], rtol=1e-6)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0])
def test_is_linear_between_parallel_and_opposite_deltas(factor):
    d = jnp.asarray(grid(1, (1, 50)))
    got = nuslerp([1.0, 3.0])(jnp.concatenate([d, factor * d]), Side(d[0]))
    np.testing.assert_allclose(got, (0.25 + 0.75 * factor) * d, rtol=0, atol=1e-6)


def test_deltas_of_zero_stay_zero():
    assert not nuslerp([1.0, 2.0])(jnp.zeros((2, 3, 4)), Side(jnp.zeros((3, 4)))).any()


@pytest.mark.parametrize("weights", [[1.0], [1.0, 2.0, 3.0]])
def test_there_are_two_weights(weights):
    with pytest.raises(ValueError, match=r"nuslerp.*there are 2 experts"):
        nuslerp(weights)


def test_merges_two_experts():
    with pytest.raises(ValueError, match=r"nuslerp: merges exactly 2 expert"):
        nuslerp()(jnp.ones((3, 3)), Side(jnp.ones(3)))
