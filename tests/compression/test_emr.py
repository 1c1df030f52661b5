"""EMR against its equations, one entry at a time, and against fusion-bench."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid
from methods.whole import SHAPES, flat, model

from mda_jax import primitives as p
from mda_jax.compression import emr


GOLDEN = Path(__file__).parent / "golden/fusion_bench_emr_T3.npz"
RELEASE = {"sign": p.positive_sign_of_sum, "size": jnp.mean}


def trees(seed, k):
    base = {name: grid(seed + 50, shape) for name, shape in SHAPES.items()}
    deltas = model(grid, seed, k)
    experts = [
        {name: base[name] + d[t] for name, d in deltas.items()} for t in range(k)
    ]
    return base, experts, deltas


def oracle(rows):
    """The delta, the masks and the scales, with sizes of the whole model."""
    vector, masks = np.zeros(rows.shape[1]), np.zeros(rows.shape, bool)
    for i, column in enumerate(rows.T):
        agree = [x for x in column if x * column.sum() > 0]
        vector[i] = max(agree, key=abs, default=0)
        masks[:, i] = column * column.sum() > 0
    got = np.abs(masks * vector).sum(axis=1)
    return vector, masks, np.abs(rows).sum(axis=1) / np.where(got, got, 1)


def close(got, want, roundings):
    bound = roundings * 2**-23 * np.abs(want).max()
    np.testing.assert_allclose(got, want, rtol=0, atol=bound)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 2, 5])
def test_is_elect_mask_rescale(seed, k):
    base, experts, deltas = trees(seed, k)
    unified = emr(base, experts)
    vector, masks, scales = oracle(flat(deltas))
    np.testing.assert_array_equal(
        flat(jax.tree.map(lambda x: x[None], unified.vector))[0], vector
    )
    np.testing.assert_allclose(unified.scales, scales, rtol=1e-6)
    for t in range(k):
        served = unified.expert(t)
        got = flat({name: served[name][None] - base[name][None] for name in SHAPES})[0]
        close(got, scales[t] * masks[t] * vector, roundings=8)


def test_fusion_bench_agrees():
    with np.load(GOLDEN) as file:
        golden = dict(file)

    def part(name):
        return {
            n.removeprefix(name): x for n, x in golden.items() if n.startswith(name)
        }

    base, stacked = part("base/"), part("experts/")
    experts = [{name: x[t] for name, x in stacked.items()} for t in range(3)]
    unified = emr(base, experts, **RELEASE)
    np.testing.assert_allclose(unified.scales, golden["expected/rescalers"], rtol=1e-6)
    for name, want in part("expected/unified/").items():
        np.testing.assert_array_equal(unified.vector[name], want)
    for t in range(3):
        for name, want in part("expected/experts/").items():
            close(unified.expert(t)[name], want[t], roundings=4)


def test_identical_experts_come_back():
    base, experts, _ = trees(3, 1)
    unified = emr(base, experts * 3)
    np.testing.assert_array_equal(unified.scales, np.ones(3))
    for name, want in experts[0].items():
        np.testing.assert_array_equal(unified.expert(2)[name], want)


def test_experts_equal_to_the_base_are_the_base():
    base, experts, _ = trees(4, 2)
    base, experts[1] = jax.tree.map(lambda x: 1e-3 * x, (base, experts[1]))
    for name, want in emr(base, [base, experts[1]]).expert(0).items():
        np.testing.assert_array_equal(want, base[name])


def test_leaves_that_are_no_floats_are_those_of_the_base():
    base = {"w": jnp.ones(3, jnp.bfloat16), "n": {"step": jnp.int32(4)}}
    expert = {"w": jnp.full(3, 3, jnp.bfloat16), "n": {"step": jnp.int32(7)}}
    served = emr(base, [expert]).expert(0)
    assert served["n"]["step"] == 4 and served["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(served["w"].astype(jnp.float32), [3, 3, 3])


def test_works_under_jit_and_takes_a_bit_an_entry():
    base, experts, _ = trees(5, 3)
    unified = jax.jit(emr)(base, experts)
    served = jax.jit(lambda unified, t: unified.expert(t))(unified, 1)
    for name, want in emr(base, experts).expert(1).items():
        close(served[name], want, roundings=4)
    assert unified.masks["a.weight"].shape == (3, 3)
    assert unified.masks["a.weight"].dtype == jnp.uint8


@pytest.mark.parametrize(
    "experts, text",
    [([], "`experts` is empty"), ([{"v": np.zeros(2)}], r"experts\[0\] lacks \['w'\]")],
)
def test_errors_name_the_offender(experts, text):
    with pytest.raises(ValueError, match=f"emr: {text}"):
        emr({"w": np.zeros(2, np.float32)}, experts)
