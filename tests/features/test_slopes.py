"""Slopes of losses and measures against central differences, and at their ends."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_slope, difference
from nonfinite import watched

from mda_jax import features as f
from mda_jax.linalg import simplex_etf


DRAW = np.random.default_rng(0)
X, PUSH, HEAD = DRAW.normal(size=(3, 6, 6))
LABELS = jnp.array([0, 1, 2, 2, 1, 0])
TARGETS = HEAD[:3]


def variability(x):
    return f.neural_collapse(x, LABELS, jnp.asarray(TARGETS, x.dtype)).variability


def duality(x):
    return f.neural_collapse(x, LABELS, jnp.asarray(TARGETS, x.dtype)).duality


def alignment(x):
    turn, targets = jnp.asarray(HEAD, x.dtype), jnp.asarray(TARGETS, x.dtype)
    return f.alignment_loss(x, LABELS, turn, targets)


def head(x):
    return (f.align(x, jnp.asarray(HEAD, x.dtype)).head * X.astype(x.dtype)).sum()


def of_targets(x):
    return (f.aligned_targets(x) * X.astype(x.dtype)).sum()


def rotation(x):
    return f.rotation_loss(x, jnp.asarray(HEAD, x.dtype))


SCALARS = {
    "entropy": f.entropy,
    "alignment_loss": alignment,
    "rotation_loss": rotation,
    "etf_deviation": f.etf_deviation,
    "variability": variability,
    "duality": duality,
    "align": head,
    "aligned_targets": of_targets,
}
LONG = "align", "aligned_targets"  # to compile
ENDS = {
    "zero": np.zeros((6, 6)),
    "equal rows": np.ones((6, 6)),
    "one row is zero": X * (np.arange(6) > 0)[:, None],
    "a frame": simplex_etf(6),
    "collapsed": TARGETS[LABELS] - TARGETS.mean(0),
    "certain": 1e4 * np.eye(6),
}


@pytest.mark.parametrize("name", SCALARS)
def test_slopes(name):
    with jax.enable_x64(True):
        slope = jax.jit(jax.value_and_grad(SCALARS[name]))
        want = difference(lambda h: slope(X + h * PUSH)[0])
        assert_slope((slope(X)[1] * PUSH).sum(), want)


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow if n in LONG else []) for n in SCALARS],
)
def test_no_step_makes_a_nan_or_an_infinity(name):
    slope = jax.jit(watched(jax.value_and_grad(SCALARS[name])))
    for case, x in ENDS.items():
        found, bad = slope(jnp.asarray(x, jnp.float32))
        assert not bad and all(jnp.isfinite(y).all() for y in found), case
