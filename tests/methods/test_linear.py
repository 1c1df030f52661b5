import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import assert_golden, golden
from helpers import assert_close, grid

from mda_jax import Side, merge
from mda_jax.methods import linear


def merged(method, base, d):
    return base + method(jnp.asarray(d), Side(jnp.zeros(d.shape[1:]))).sum(0)


@pytest.mark.parametrize("seed", range(3))
def test_is_the_mean_of_the_experts(seed):
    base, d = grid(9, (4, 5)), grid(seed, (3, 4, 5))
    want = np.mean([base.astype(np.float64) + x for x in d], axis=0)
    assert_close(merged(linear(), base, d), want, flops=5)


@pytest.mark.parametrize("weights", [[1, 1, 1], [0.5, 1.5, 0.25], [2.0, -1.0, 0.5]])
def test_is_the_weighted_mean_of_the_experts(weights):
    base, d = grid(9, (4, 5)), grid(0, (3, 4, 5))
    want = sum(
        w * (base.astype(np.float64) + x) for w, x in zip(weights, d, strict=True)
    )
    assert_close(merged(linear(weights), base, d), want / sum(weights), flops=12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_simple_average_of_fusion_bench(dtype):
    base, experts, expected = golden("simple_average", dtype)
    with jax.enable_x64(dtype == "float64"):
        got = merge(base, experts, linear())
    assert_golden(got, expected, base, condition=1)


def test_counts_the_weights():
    with pytest.raises(ValueError, match=r"weights has shape \(2,\), there are 3"):
        merged(linear([1.0, 2.0]), 0.0, grid(0, (3, 4)))
