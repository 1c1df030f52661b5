import jax
import jax.numpy as jnp
import numpy as np
from linalg.spectra import gaussian

from mda_jax.linalg import solve_positive


def positive(*shape):
    x = gaussian(1, *shape)
    return x @ np.swapaxes(x, -1, -2) + np.eye(shape[-1], dtype=x.dtype)


def test_solves_every_system_of_a_batch():
    g, x = positive(2, 3, 6, 6), gaussian(2, 2, 3, 6, 4)
    got = jax.jit(solve_positive)(jnp.asarray(g), jnp.asarray(x))
    want = np.linalg.solve(g.astype(np.float64), x.astype(np.float64))
    # condition numbers of these matrices are below 100
    bound = 8 * 100 * np.finfo(np.float32).eps * np.abs(want).max()
    assert np.abs(got - want).max() <= bound


def test_one_matrix_serves_many_right_sides():
    g, x = jnp.asarray(positive(6, 6)), jnp.asarray(gaussian(2, 3, 6, 4))
    many = jax.vmap(solve_positive, (None, 0))(g, x)
    want = jnp.stack([solve_positive(g, each) for each in x])
    np.testing.assert_allclose(many, want, rtol=0, atol=1e-5)


def test_what_is_not_positive_definite_gives_nan():
    assert np.isnan(solve_positive(-jnp.eye(3), jnp.eye(3))).all()


def test_derivative_is_that_of_the_inverse():
    g, x = jnp.asarray(positive(5, 5)), jnp.asarray(gaussian(3, 5, 2))
    dg = jnp.asarray(positive(5, 5))
    got = jax.jvp(lambda g: solve_positive(g, x), (g,), (dg,))[1]
    want = -solve_positive(g, dg @ solve_positive(g, x))
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
