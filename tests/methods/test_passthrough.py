import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side, merge
from mda_jax.methods import passthrough


@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (2, 3, 5)])
def test_is_the_scaled_expert(shape):
    base, expert = jnp.asarray(grid(0, shape)), grid(1, shape)
    for scale in (0.0, 0.3, 1.0):
        d = jnp.asarray(expert)[None] - base[None]
        got = base + passthrough(scale)(d, Side(base))[0]
        assert_close(got, np.asarray(scale * expert.astype(np.float64)), flops=6)


def test_takes_the_expert_as_it_is():
    base, expert = ({"w": jnp.asarray(grid(i, (4, 6)))} for i in range(2))
    merged = merge(base, [expert], passthrough())
    np.testing.assert_array_equal(merged["w"], expert["w"])


def test_merges_one_expert():
    with pytest.raises(ValueError, match="passthrough: merges exactly 1 expert"):
        passthrough()(jnp.ones((2, 3)), Side(jnp.ones(3)))
