import jax
import jax.numpy as jnp
import numpy as np
from helpers import grid

from mda_jax import trees


def test_a_tree_with_tied_leaves_may_be_donated():
    x = jnp.asarray(grid(1, (4, 8)))
    tied = {"a": x, "b": x, "c": np.ones(3), "d": jnp.ones(2), "key": jax.random.key(0)}
    own = trees.unaliased(tied)
    assert own["a"] is x and own["b"] is not x
    assert own["c"] is tied["c"] and own["d"] is tied["d"] and own["key"] is tied["key"]
    out = jax.jit(lambda tree: tree, donate_argnums=0)(own)
    np.testing.assert_array_equal(out["b"], grid(1, (4, 8)))
