"""Closed-form alignment of features to a simplex frame."""

import jax
import jax.numpy as jnp
import numpy as np

from mda_jax.features import align, centre, centred_directions, random_targets


EPS = np.finfo(np.float32).eps
CLASSES, WIDTH = 5, 7


def turned_frame(seed):
    """Means that are a frame, stretched, turned and moved away from the origin."""
    targets = random_targets(jax.random.key(seed), CLASSES, WIDTH)
    draw = np.random.default_rng(seed)
    turn = np.linalg.qr(draw.normal(size=(WIDTH, WIDTH)))[0]
    means = 3 * np.asarray(targets) @ turn + draw.normal(size=WIDTH)
    return jnp.asarray(means, jnp.float32), targets


def test_a_turned_frame_is_turned_back():
    means, targets = turned_frame(0)
    found = align(means, targets)
    got = np.asarray(found.turned(means))
    assert np.abs(got - 3 * np.asarray(targets)).max() <= 200 * EPS
    identity = np.asarray(found.rotation).T @ np.asarray(found.rotation)
    assert np.abs(identity - np.eye(WIDTH)).max() <= 32 * EPS
    assert np.linalg.det(np.asarray(found.rotation, np.float64)) > 0


def test_no_rotation_brings_the_means_nearer():
    draw = np.random.default_rng(1)
    means = jnp.asarray(draw.normal(size=(CLASSES, WIDTH)), jnp.float32)
    targets = random_targets(jax.random.key(1), CLASSES, WIDTH)
    best = np.asarray(align(means, targets).rotation, np.float64)
    rows = np.asarray(means, np.float64) - np.asarray(means, np.float64).mean(0)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)

    def distance(q):
        return np.linalg.norm(rows @ q - np.asarray(targets))

    for _ in range(50):
        skew = draw.normal(size=(WIDTH, WIDTH))
        other = best @ np.linalg.qr(np.eye(WIDTH) + 0.1 * (skew - skew.T))[0]
        other[:, 0] *= np.sign(np.linalg.det(other))
        assert distance(best) <= distance(other) + 1e-5


def test_the_head_does_what_the_rotation_does():
    means, targets = turned_frame(2)
    found = align(means + 0.1, targets)
    z = jnp.asarray(np.random.default_rng(2).normal(size=(9, WIDTH)), jnp.float32)
    got = z @ found.head.T + found.bias[None]
    want = found.turned(z) @ targets.T
    assert np.abs(np.asarray(got - want)).max() <= 200 * EPS


def test_classes_without_samples_take_no_part():
    means, targets = turned_frame(3)
    missing = means.at[2].set(0)
    seen = np.delete(np.asarray(means), 2, axis=0)
    assert np.abs(np.asarray(centre(missing)) - seen.mean(0)).max() <= 8 * EPS
    directions = np.asarray(centred_directions(missing))
    assert not directions[2].any()
    sizes = np.linalg.norm(np.delete(directions, 2, axis=0), axis=1)
    assert np.abs(sizes - 1).max() <= 4 * EPS
    assert np.isfinite(align(missing, targets).head).all()
    nothing = align(jnp.zeros((CLASSES, WIDTH)), targets)
    np.testing.assert_allclose(nothing.rotation, np.eye(WIDTH), rtol=0, atol=8 * EPS)
