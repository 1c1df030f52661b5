"""Model Stock against its formula in float64, and against fusion-bench."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import FILE
from helpers import assert_close, grid

from mda_jax import Side, merge, primitives as p
from mda_jax.methods import model_stock


GOLDEN = Path(__file__).parent / "golden/fusion_bench_model_stock.npz"


def ratio(vectors, by_angle=False):
    k, cosines = len(vectors), []
    for a, b in itertools.combinations(vectors, 2):
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        cosines.append(np.clip(a @ b / norms, -1, 1) if norms else 0.0)
    c = np.cos(np.arccos(cosines).mean()) if by_angle else np.mean(cosines)
    return k * c / (1 + (k - 1) * c) if 1 + (k - 1) * c > 1e-5 else 0.0


def oracle(d, by_angle=False):
    d = d.astype(np.float64)
    return ratio(d.reshape(len(d), -1), by_angle) * d.mean(0, keepdims=True)


def merged(method, d):
    return jax.jit(method)(jnp.asarray(d), Side(d[0]))


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (2, 3, 5)])
@pytest.mark.parametrize("seed", range(2))
def test_is_the_formula(k, shape, seed):
    d = np.abs(grid(seed, (k, *shape))) + 0.25 * grid(seed + 5, (k, *shape))
    assert_close(merged(model_stock(), d), oracle(d), flops=32 * k)
    by_angle = model_stock(cosine=p.cosine_of_mean_angle)
    # angles near 0 carry an error of sqrt(eps), their cosines one of eps
    assert_close(merged(by_angle, d), oracle(d, by_angle=True), flops=64 * k)


def test_obtuse_angles_push_away_from_the_mean():
    d = grid(7, (3, 4, 6)) - 1.5 * grid(7, (3, 4, 6)).mean(0)
    want = oracle(d)
    assert want.ravel() @ d.mean(0).ravel() < 0
    assert_close(merged(model_stock(), d), want, flops=256)


def test_rows_and_columns_have_angles_of_their_own():
    d = np.abs(grid(3, (3, 4, 6))) + 0.25 * grid(4, (3, 4, 6))
    rows = np.concatenate([oracle(d[:, i : i + 1]) for i in range(4)], 1)
    assert_close(merged(model_stock(vectors=p.rows), d), rows, flops=96)
    columns = np.concatenate([oracle(d[..., i : i + 1]) for i in range(6)], 2)
    assert_close(merged(model_stock(vectors=p.columns), d), columns, flops=96)


def test_identical_and_lonely_experts_are_kept_and_orthogonal_ones_dropped():
    d = grid(1, (1, 5))
    np.testing.assert_array_equal(merged(model_stock(), d), d)
    assert_close(merged(model_stock(), np.tile(d, (3, 1))), np.float64(d), flops=32)
    assert not merged(model_stock(), np.eye(3, dtype=np.float32)).any()


def test_deltas_that_cancel_or_vanish_leave_the_base():
    d = grid(1, (1, 5))
    assert not merged(model_stock(), np.concatenate([d, -d])).any()
    assert not merged(model_stock(), np.concatenate([d, 0 * d])).any()


def test_fusion_bench_agrees():
    """Its angles are float32, and 1e-8 is added to its denominators."""
    method = model_stock(cosine=p.cosine_of_mean_angle)
    with np.load(FILE) as inputs, np.load(GOLDEN) as expected, jax.enable_x64(True):
        for name in set(expected) - {"head.bias"}:  # told to average it
            base, experts = inputs[f"base/{name}"], inputs[f"experts/{name}"]
            got = merge({"w": base}, [{"w": x} for x in experts], method)["w"]
            scale = np.abs(expected[name] - base).max()
            error = np.abs(got - expected[name]).max()
            assert error <= 1e-5 * scale, (name, error)
