import jax
import jax.numpy as jnp
import numpy as np

from mda_jax.features import ClassMeans, class_means


DRAW = np.random.default_rng(0)
FEATURES = DRAW.normal(size=(60, 5)).astype(np.float32)
LABELS = DRAW.integers(0, 4, 60).astype(np.int32)


def oracle(classes):
    return np.stack([FEATURES[LABELS == c].astype(float).mean(0) for c in classes])


def test_are_the_means_of_each_class():
    got = class_means(jnp.asarray(FEATURES), jnp.asarray(LABELS), 4)
    np.testing.assert_allclose(got, oracle(range(4)), rtol=0, atol=1e-6)


def test_batches_in_a_scan_are_exact():
    batches = jnp.asarray(FEATURES).reshape(6, 10, 5), LABELS.reshape(6, 10)

    def step(state, batch):
        return state.observe(*batch), None

    state, _ = jax.lax.scan(step, ClassMeans.empty(4, 5), batches)
    np.testing.assert_allclose(state.means, oracle(range(4)), rtol=0, atol=1e-6)
    assert state.counts.sum() == 60


def test_exponential_means_forget_and_absent_classes_stay():
    state = ClassMeans.empty(2, 1).observe(jnp.array([[1.0], [5.0]]), jnp.array([0, 1]))
    state = state.observe(jnp.array([[3.0]]), jnp.array([0]), keep=0.5)
    # class 0: (0.5 * 1 + 3) / (0.5 + 1); class 1 as before
    np.testing.assert_allclose(state.means, [[3.5 / 1.5], [5.0]], rtol=1e-6)


def test_labels_outside_and_unseen_classes():
    means = class_means(jnp.ones((3, 2)), jnp.array([0, 7, -1]), 3)
    np.testing.assert_array_equal(means, [[1, 1], [0, 0], [0, 0]])
