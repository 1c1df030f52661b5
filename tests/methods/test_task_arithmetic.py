import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_golden, golden
from helpers import assert_close, grid

from mda_jax import Side, merge
from mda_jax.methods import task_arithmetic


@pytest.mark.parametrize("seed", range(3))
def test_is_a_scaled_sum(seed):
    d = grid(seed, (3, 4, 5))
    got = task_arithmetic(0.3)(jnp.asarray(d), Side(jnp.zeros((4, 5))))
    assert_close(got, 0.3 * d.astype("float64"), flops=2)


def test_weights_multiply_expert_by_expert():
    d, weights = grid(0, (3, 4)), [0.5, -1.0, 2.0]
    got = task_arithmetic(0.3, weights)(jnp.asarray(d), Side(jnp.zeros(4)))
    want = 0.3 * np.asarray(weights)[:, None] * d.astype("float64")
    assert_close(got, want, flops=3)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fusion_bench(dtype):
    base, experts, expected = golden("task_arithmetic", dtype)
    with jax.enable_x64(dtype == "float64"):
        got = merge(base, experts, task_arithmetic(0.3))
    assert_golden(got, expected, base, condition=1)
