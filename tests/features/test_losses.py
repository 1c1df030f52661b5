import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mda_jax.features import alignment_loss, entropy, random_targets, rotation_loss
from mda_jax.linalg import procrustes_rotation


def test_entropy_of_uniform_and_certain_predictions():
    assert entropy(jnp.zeros((3, 8))) == pytest.approx(np.log(8), rel=1e-6)
    assert entropy(jnp.array([[0.0, 200.0]])) == 0
    assert jnp.isfinite(jax.grad(entropy)(jnp.array([[0.0, 200.0]]))).all()


def test_alignment_vanishes_once_features_are_rotated_to_their_targets():
    targets = random_targets(jax.random.key(0), 4, 6)
    labels = jnp.array([0, 1, 2, 3, 1])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(6, 6)))[0]
    features = 7 * targets[labels] @ jnp.asarray(turn, jnp.float32)
    q = procrustes_rotation(features, targets[labels])
    assert alignment_loss(features, labels, q, targets) <= 1e-9
    opposite = alignment_loss(-features, labels, q, targets)
    assert opposite == pytest.approx(4, rel=1e-5)


def test_a_feature_of_zero_has_a_finite_gradient():
    def loss(z):
        return alignment_loss(z, jnp.array([0]), jnp.eye(3), jnp.eye(3))

    assert jnp.isfinite(jax.grad(loss)(jnp.zeros((1, 3)))).all()


def test_rotation_loss_is_a_squared_distance():
    assert rotation_loss(jnp.eye(2), -jnp.eye(2)) == 8
