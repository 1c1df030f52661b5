"""ExPO against its formula."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side
from mda_jax.methods import expo


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (2, 3, 5)])
def test_goes_on_from_the_mean_of_the_experts(k, shape):
    base, experts = grid(0, shape), grid(1, (k, *shape))
    d = jnp.asarray(experts - base)
    got = base + expo(0.3)(d, Side(jnp.asarray(base)))[0]
    tuned = experts.astype(np.float64).mean(0)
    want = tuned + 0.3 * (tuned - base.astype(np.float64))
    assert_close(got, np.asarray(want), flops=k + 4)


def test_default_and_no_extrapolation():
    d = jnp.asarray(grid(1, (1, 5)))
    np.testing.assert_allclose(expo()(d, Side(d[0])), 1.1 * d, rtol=1e-6)
    np.testing.assert_array_equal(expo(0.0)(d, Side(d[0])), d)
