from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linalg.spectra import (
    distance,
    gaussian,
    polar_oracle,
    slope,
    tangent,
    with_spectrum,
)

from mda_jax.linalg import procrustes, procrustes_rotation


EPS32 = 2.0**-23
MAPS = [procrustes, procrustes_rotation]


def assert_orthogonal(q):
    d = q.shape[-1]
    for each in np.asarray(q, np.float64).reshape(-1, d, d):
        assert distance(each @ each.T, np.eye(d)) <= 16 * EPS32 * np.sqrt(d)


def kabsch(m):
    u, _, vt = np.linalg.svd(m)
    signs = np.ones(len(m))
    signs[-1] = np.linalg.det(u @ vt)
    return (u * signs) @ vt


def clouds(product):
    """Points and targets whose product of coordinates is the given matrix."""
    return jnp.eye(product.shape[-1], dtype=product.dtype), jnp.asarray(product)


@pytest.mark.parametrize("find", MAPS)
def test_finds_the_rotation_that_was_applied(find):
    x = gaussian(1, 20, 5)
    q = kabsch(gaussian(2, 5, 5).astype(np.float64))
    found = jax.jit(find)(jnp.asarray(x), jnp.asarray((x @ q).astype(np.float32)))
    # 8 eps sqrt(d) times the condition of x^T x, below 10 for 20 Gaussian points.
    assert distance(found, q) <= 8 * EPS32 * np.sqrt(5) * 10


@pytest.mark.parametrize("seed", range(4))
def test_is_schonemann_and_kabsch(seed):
    m = with_spectrum(seed, 4, 4, np.array([3.0, 2, 1.5, 1]))
    # The weakest pair of signed values that the map separates: 1.5 - 1 = 0.5.
    bound = 8 * EPS32 * 2 * 3 / 0.5
    assert distance(jax.jit(procrustes)(*clouds(m)), polar_oracle(m)) <= bound
    assert distance(jax.jit(procrustes_rotation)(*clouds(m)), kabsch(m)) <= bound


def weighed(find, target):
    source = jnp.eye(target.shape[-1], dtype=target.dtype)
    return (find(source, target) * gaussian(4, *target.shape)).sum()


GRADIENTS = {find: jax.jit(jax.grad(partial(weighed, find))) for find in MAPS}

DEGENERATE = {
    "zero": np.zeros((5, 5)),
    "projector": np.diag([1.0, 1, 0, 0, 0]),
    "swap": np.eye(5, k=1) * np.array([1.0, 0, 0, 0, 0])[:, None],
    "shift": np.eye(5, k=1),
    "reflection": np.diag([1.0, 1, 1, 1, -1]),
    "rank 2": with_spectrum(3, 5, 5, np.ones(2), np.float64),
}


@pytest.mark.parametrize("find", MAPS)
@pytest.mark.parametrize("m", DEGENERATE.values(), ids=DEGENERATE.keys())
def test_always_orthogonal_with_finite_gradient(find, m):
    source, target = clouds(m.astype(np.float32))
    q = jax.jit(find)(source, target)
    assert_orthogonal(q)
    # The best value is the nuclear norm, less what one reversal must cost.
    s = np.linalg.svd(m, compute_uv=False)
    cost = 0.0
    if find is procrustes_rotation:
        assert np.linalg.det(q) == pytest.approx(1, abs=1e-5)
        sign = np.linalg.det(m)
        cost = 2 * s[-1] if sign < 0 else 0.0
    assert (np.asarray(q) * m).sum() == pytest.approx(s.sum() - cost, abs=1e-5)
    gradient = GRADIENTS[find](target)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("find", MAPS)
def test_completes_with_the_identity(find):
    for m in (DEGENERATE["zero"], DEGENERATE["projector"]):
        q = jax.jit(find)(*clouds(m.astype(np.float32)))
        np.testing.assert_allclose(q, np.eye(5), rtol=0, atol=16 * EPS32)


def test_completion_is_nearest_to_the_identity():
    u, _, vt = np.linalg.svd(gaussian(5, 5, 5).astype(np.float64))
    m = (u[:, :2] @ vt[:2]).astype(np.float32)
    between = u[:, 2:] @ polar_oracle(u[:, 2:].T @ vt[2:].T) @ vt[2:]
    want = u[:, :2] @ vt[:2] + between
    weakest = np.linalg.svd(u[:, 2:].T @ vt[2:].T, compute_uv=False)[-1]
    # The null spaces are known to 8 eps sqrt(d), and their polar factor divides that
    # by the cosine of their largest angle.
    bound = 8 * EPS32 * np.sqrt(5) / weakest
    assert distance(jax.jit(procrustes)(*clouds(m)), want) <= bound


@pytest.mark.parametrize("find", MAPS)
def test_derivative_is_the_slope(find):
    oracle = polar_oracle if find is procrustes else kabsch
    with jax.enable_x64(True):
        for seed in range(2):
            m, dm = gaussian(seed, 2, 4, 4, dtype=np.float64)
            want = slope(oracle, m, dm, 1e-6)
            source, target = clouds(m)
            got = tangent(lambda t, s=source: find(s, t), target, dm)
            # step^2 |f'''| and eps / step, with |f'''| up to some 1e3 here.
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-8)


def test_batch_and_not_finite():
    x = gaussian(7, 3, 6, 4)
    x[1, 0, 0] = np.nan
    for find in MAPS:
        q = np.asarray(jax.jit(find)(jnp.asarray(x), jnp.asarray(x[::-1])))
        assert np.isnan(q[1]).all() and np.isfinite(q[[0, 2]]).all()
