import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mda_jax.features import (
    aligned_targets,
    etf_deviation,
    neural_collapse,
    random_targets,
)


def rotation(d):
    return np.linalg.qr(np.random.default_rng(d).normal(size=(d, d)))[0]


def samples(classes=4, width=6, each=30, spread=0.3):
    draw = np.random.default_rng(1)
    labels = np.repeat(np.arange(classes), each).astype(np.int32)
    centres = draw.normal(size=(classes, width))
    x = centres[labels] + spread * draw.normal(size=(len(labels), width))
    return x.astype(np.float32), labels, draw.normal(size=(classes, width))


def oracle(x, labels, head):
    """Literally, in float64 with pseudo-inverses."""
    x, classes = x.astype(float), len(head)
    means = np.stack([x[labels == c].mean(0) for c in range(classes)])
    centred = means - means.mean(0)
    between = centred.T @ centred / classes
    residuals = x - means[labels]
    within = residuals.T @ residuals / len(x)
    first = np.trace(within @ np.linalg.pinv(between, rcond=1e-9)) / classes
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    gram = unit @ unit.T
    frame = (classes * np.eye(classes) - 1) / (classes - 1)
    second = np.linalg.norm(gram / np.linalg.norm(gram) - frame / np.linalg.norm(frame))
    third = np.linalg.norm(
        head / np.linalg.norm(head) - centred / np.linalg.norm(centred)
    )
    nearest = ((x[:, None] - means[None]) ** 2).sum(-1).argmin(1)
    return first, second, third, np.mean(nearest != (x @ head.T).argmax(1))


@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_is_the_definition(spread):
    x, labels, head = samples(spread=spread)
    arrays = jnp.asarray(x), jnp.asarray(labels), jnp.asarray(head, jnp.float32)
    got = jax.jit(neural_collapse)(*arrays)
    # NC1 passes through an inverse of condition number below 100
    np.testing.assert_allclose(got, oracle(x, labels, head), rtol=1e-4)


def test_collapsed_features_measure_zero():
    targets = random_targets(jax.random.key(0), 5, 8)
    labels = jnp.tile(jnp.arange(5), 3)
    found = neural_collapse(3 * targets[labels] + 1.0, labels, targets)
    # rounding of unit vectors shifted by 1; NC4 compares sums that rounding cannot tie
    assert found.variability <= 1e-9 and found.frame <= 1e-5 and found.duality <= 1e-5


def test_etf_deviation_is_invariant_and_at_most_two():
    targets = np.asarray(random_targets(jax.random.key(1), 5, 7))
    turned = 10 * targets @ rotation(7).astype(np.float32)
    assert etf_deviation(jnp.asarray(turned)) <= 1e-5
    same = jnp.ones((5, 7))
    # Gram of ones against the frame: inner product 0, so the root of 2
    assert abs(etf_deviation(same) - 2**0.5) <= 1e-5


def test_targets_are_simplex_frames():
    cosines = np.where(np.eye(6), 1, -1 / 5)
    for width in (5, 6, 9):
        e = np.asarray(random_targets(jax.random.key(2), 6, width), np.float64)
        assert np.abs(e @ e.T - cosines).max() <= 2e-5
    assert not np.allclose(e, random_targets(jax.random.key(3), 6, 9))


def test_aligned_targets_are_the_nearest_frame():
    head = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    aligned = np.asarray(aligned_targets(jnp.asarray(head)))
    gap = np.linalg.norm(aligned - head)
    for i in range(20):
        turn = np.linalg.qr(np.random.default_rng(i).normal(size=(6, 6)))[0]
        other = aligned @ turn.astype(np.float32)
        assert np.linalg.norm(other - head) >= gap


def test_too_narrow_features_are_refused():
    with pytest.raises(ValueError, match="5 classes need features of width 4 or more"):
        random_targets(jax.random.key(0), 5, 3)
