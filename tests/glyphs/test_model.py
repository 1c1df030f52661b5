import jax
import jax.numpy as jnp
import numpy as np

from mda_jax import trees
from mda_jax.glyphs import model


def test_size_and_shape():
    params = model.initial(jax.random.key(0))
    assert 0.6e6 < sum(x.size for x in jax.tree.leaves(params)) < 0.8e6
    assert model.features(params, jnp.zeros((2, 28, 28))).shape == (2, model.WIDTH)


def test_logits_are_scaled_cosines():
    params = model.initial(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (3, 28, 28))
    head = jnp.eye(5, model.WIDTH)
    z = np.asarray(model.features(params, images), np.float64)
    want = model.TEMPERATURE * z[:, :5] / np.linalg.norm(z, axis=1, keepdims=True)
    got = model.logits(params, head, images)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_every_kernel_has_a_known_role():
    """Merge methods see 25 linear maps and one convolution."""
    leaves = trees.named(model.initial(jax.random.key(0)))
    roles = [layout.role.value for layout in trees.layouts(leaves).values()]
    counts = {role: roles.count(role) for role in set(roles)}
    assert counts == {"matrix": 24, "conv": 1, "position": 1, "vector": 43}
