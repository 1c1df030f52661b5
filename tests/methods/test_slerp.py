"""SLERP against its formula in float64, and against fusion-bench."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side, merge, primitives as p
from mda_jax.methods import slerp


GOLDEN = Path(__file__).parent / "golden/fusion_bench_slerp.npz"


def oracle(base, expert, t):
    a, b = base.astype(np.float64), expert.astype(np.float64)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    cosine = (a * b).sum() / norms if norms else 1.0
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    w = np.arccos(cosine)
    return (np.sin((1 - t) * w) * a + np.sin(t * w) * b) / np.sin(w)


@jax.jit
def merged(t, base, expert):
    return base + slerp(t)((expert - base)[None], Side(base))[0]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", [(), (7,), (4, 6), (2, 3, 5)])
@pytest.mark.parametrize("t", [0.0, 0.35, 1.0])
def test_is_the_formula(seed, shape, t):
    base, expert = grid(seed, shape), grid(seed + 10, shape)
    got = merged(t, jnp.asarray(base), jnp.asarray(expert))
    # an error of the cosine is divided by the squared sine, 0.2 or more here
    assert_close(got, np.asarray(oracle(base, expert, t)), flops=64)


@pytest.mark.parametrize("cosine, length", [(0.999, 1), (0.9997, 0.99985**0.5)])
def test_an_arc_of_unit_vectors_has_length_one_and_a_chord_less(cosine, length):
    base, expert = [1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]
    got = merged(0.5, jnp.asarray(base), jnp.asarray(expert))
    np.testing.assert_allclose(jnp.linalg.norm(got), length, rtol=1e-6)


@pytest.mark.parametrize("case", ["parallel", "opposite", "zero base", "zero expert"])
def test_is_linear_where_there_is_no_arc(case):
    base, expert = grid(1, (5,)), 2 * grid(1, (5,))
    expert = {"opposite": -expert, "zero expert": 0 * expert}.get(case, expert)
    base = 0 * base if case == "zero base" else base
    got = merged(0.25, jnp.asarray(base), jnp.asarray(expert))
    np.testing.assert_allclose(got, 0.75 * base + 0.25 * expert, atol=1e-6)


def test_a_right_angle_to_zero_is_the_rule_of_other_libraries():
    d = jnp.asarray(grid(1, (1, 5)))
    got = slerp(0.25, cosine=p.cosine)(d, Side(0 * d[0]))
    np.testing.assert_allclose(got, np.sin(np.pi / 8) * d, rtol=1e-6)


@pytest.mark.parametrize("t", np.linspace(0, 1, 101))
def test_an_expert_like_the_base_changes_nothing(t):
    base = jnp.asarray(grid(1, (6,)))
    np.testing.assert_array_equal(merged(float(t), base, base), base)


def test_fusion_bench_agrees():
    """It takes the cosine in float64; some pairs are parallel or opposite."""
    with np.load(GOLDEN) as file, jax.enable_x64(True):
        for key in file:
            if key.startswith("experts/"):
                base, expert = file[key]
                got = merge({"w": base}, [{"w": expert}], slerp(0.35))["w"]
                want = file[key.replace("experts", "expected")]
                np.testing.assert_allclose(got, want, rtol=0, atol=1e-14, err_msg=key)


@pytest.mark.parametrize("t", [-0.1, 1.5])
def test_t_is_a_share(t):
    with pytest.raises(ValueError, match=r"slerp\(t=.*number in \[0, 1\]"):
        slerp(t)


def test_merges_one_expert():
    with pytest.raises(ValueError, match=r"slerp: merges exactly 1 expert"):
        slerp()(jnp.ones((2, 3)), Side(jnp.ones(3)))
