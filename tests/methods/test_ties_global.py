"""Global TIES against the paper, one entry at a time; and fusion-bench's outputs."""

from pathlib import Path

import jax
import numpy as np
import pytest
from golden import assert_golden, golden
from helpers import assert_close, grid
from methods.whole import SIZE, flat, merged, model

from mda_jax import merge, primitives as p
from mda_jax.methods import ties_global


GOLDEN = Path(__file__).parent / "golden/fusion_bench_ties_T3.npz"
MERGES = {
    "mean": (p.agreeing_mean, np.mean),
    "sum": (p.agreeing_sum, np.sum),
    "max": (p.agreeing_largest, lambda agree: max(agree, key=abs)),
}


def oracle(deltas, density, combine):
    rows = flat(deltas)
    keep = max(1, round(density * rows.shape[1]))
    for row in rows:
        row[np.abs(row) < np.sort(np.abs(row))[-keep]] = 0
    signs = np.sign(rows.sum(axis=0))
    signs[signs == 0] = np.sign(signs.sum())
    merged = np.zeros(rows.shape[1])
    for i, sign in enumerate(signs):
        if agree := [x for x in rows[:, i] if x * sign > 0]:
            merged[i] = combine(agree)
    return merged


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 1.0])
@pytest.mark.parametrize(
    ("rule", "k"), [("mean", 1), ("mean", 5), ("sum", 2), ("sum", 5), ("max", 2)]
)
def test_is_the_paper(seed, k, density, rule):
    ours, theirs = MERGES[rule]
    deltas = model(grid, seed, k)
    got = merged(ties_global(density, merged=ours), deltas)
    assert_close(got, oracle(deltas, density, theirs), flops=k + 1)


def test_the_majority_decides_where_signs_cancel():
    for sign in (1, -1):
        deltas = {"a": np.float32([[3, 2], [-3, 1]]) * np.float32(sign)}
        got = merged(ties_global(1.0), deltas)
        np.testing.assert_array_equal(got, np.float32([3, 1.5]) * np.float32(sign))
    balanced = {"a": np.float32([[3, 2, -2], [-3, 2, -2]])}
    np.testing.assert_array_equal(merged(ties_global(1.0), balanced), [0, 2, -2])


def test_an_expert_may_keep_nothing_of_a_weight():
    deltas = {"a": np.full((1, 3), 2, np.float32), "b": np.ones((1, 3), np.float32)}
    got = merged(ties_global(0.5), deltas)
    np.testing.assert_array_equal(got, [2, 2, 2, 0, 0, 0])


def test_keeps_the_rounded_share_and_what_ties():
    deltas = model(grid, 3, 1)
    sizes = np.sort(np.abs(flat(deltas)[0]))
    for keep in (1, 2, SIZE // 2, SIZE):
        got = merged(ties_global(keep / SIZE), deltas)
        want = np.sum((sizes >= sizes[-keep]) & (sizes > 0))
        assert np.count_nonzero(got) == want


@pytest.mark.slow
@pytest.mark.parametrize("rule", MERGES)
def test_fusion_bench_agrees(rule):
    base, experts, _ = golden("task_arithmetic", "float64")
    with np.load(GOLDEN) as file:
        expected = {name: file[f"{rule}/{name}"] for name in base}
    size = sum(leaf.size for leaf in base.values())
    density = (int(size * 0.2) + 1) / size
    with jax.enable_x64(True):
        method = ties_global(density, scale=0.3, merged=MERGES[rule][0])
        got = merge(base, experts, method)
    assert_golden(got, expected, base, condition=1)


@pytest.mark.parametrize("density, hint", [(20, "density=0.2"), (0, ""), (-1, "")])
def test_density_is_a_fraction(density, hint):
    with pytest.raises(ValueError, match=rf"ties_global.*in \(0, 1\].*{hint}"):
        ties_global(density)
