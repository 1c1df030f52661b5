import jax
import jax.numpy as jnp
import pytest

from mda_jax import linalg


def gradient(f):
    return jax.grad(lambda *args: sum(y.sum() for y in jax.tree.leaves(f(*args))))


def top(x):
    return linalg.top_singular_subspaces(x, 3)


ONE = [
    linalg.polar,
    linalg.polar_gram,
    linalg.polar_polynomial,
    linalg.polar_svd,
    linalg.nuclear_norm,
    linalg.nearest_simplex_frame,
    linalg.svd,
    top,
]
TWO = [linalg.procrustes, linalg.procrustes_rotation]
DIFFERENTIABLE = [each for each in (*ONE, *TWO) if each is not linalg.svd]


def shapes(f):
    count = 2 if f in TWO else 1
    return [jax.ShapeDtypeStruct((2, 12, 5), jnp.float32)] * count


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_every_function_exports(platform):
    for f in (*ONE, *TWO):
        exported = jax.export.export(jax.jit(f), platforms=[platform])(*shapes(f))
        assert exported.platforms == (platform,)
    square = jax.ShapeDtypeStruct((2, 5, 5), jnp.float32)
    jax.export.export(jax.jit(linalg.inverse_sqrt), platforms=[platform])(square)
    for name in ("exp_rotation", "cayley_rotation", "low_rank_rotation"):
        chart = getattr(linalg, name)
        jax.export.export(jax.jit(gradient(chart)), platforms=[platform])(square)
    solve = jax.jit(gradient(linalg.solve_positive))
    jax.export.export(solve, platforms=[platform])(square, square)
    frame = jax.jit(lambda: linalg.simplex_etf(4))
    jax.export.export(frame, platforms=[platform])()


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_every_gradient_exports(platform):
    for f in DIFFERENTIABLE:
        jax.export.export(jax.jit(gradient(f)), platforms=[platform])(*shapes(f))


@pytest.mark.parametrize("f", DIFFERENTIABLE)
def test_only_the_yardsticks_call_for_a_decomposition_into_singular_values(f):
    text = str(jax.make_jaxpr(f)(*shapes(f)))
    assert (" svd[" in text) == (f is linalg.polar_svd)


def test_every_public_name_is_exported_here():
    tested = {each.__name__ for each in (*ONE, *TWO)}
    tested |= {"top_singular_subspaces", "inverse_sqrt", "simplex_etf"}
    tested |= {"solve_positive", "exp_rotation", "cayley_rotation", "low_rank_rotation"}
    public = {n for n, each in vars(linalg).items() if callable(each)}
    assert public - {"Subspaces", "SVD"} == tested - {"top"}
