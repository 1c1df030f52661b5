"""Trust region against its definition, with all pairs of experts, in float64."""

import numpy as np
import pytest
from helpers import assert_close, grid
from methods.whole import SIZE, flat, merged, model

from mda_jax.methods import task_arithmetic, tatr


def conflicts(rows):
    k, n = rows.shape
    total = np.zeros(n)
    for i in range(k):
        for j in range(k):
            if i != j:
                total += np.abs(rows[i]) * np.abs(rows[j])
    return total


def oracle(deltas, quantile, scale):
    rows = flat(deltas)
    conflict = conflicts(rows)
    place = min(int(quantile * rows.shape[1]), rows.shape[1] - 1)
    trusted = (conflict < np.sort(conflict)[place]) | (conflict == 0)
    return scale * rows.sum(axis=0) * trusted


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("quantile", [0.01, 0.5, 0.99, 1.0])
def test_is_the_definition(seed, k, quantile):
    deltas = model(grid, seed, k)
    want = oracle(deltas, quantile, 0.7)
    assert_close(merged(tatr(quantile, scale=0.7), deltas), want, flops=k + 1)


def test_the_largest_conflict_goes_even_at_quantile_1():
    deltas = model(grid, 7, 3)
    got = np.asarray(merged(tatr(1.0), deltas))
    assert got[np.argmax(conflicts(flat(deltas)))] == 0
    assert np.count_nonzero(got) >= SIZE - 5


def test_experts_that_share_no_entry_are_all_merged():
    deltas = model(grid, 5, 2)
    for d in deltas.values():
        turns = np.arange(d[0].size).reshape(d.shape[1:]) % 2 == 0
        d[0], d[1] = np.where(turns, d[0], 0), np.where(turns, 0, d[1])
    want = merged(task_arithmetic(0.3), deltas)
    np.testing.assert_array_equal(merged(tatr(0.5, scale=0.3), deltas), want)


def test_one_expert_has_no_conflict():
    deltas = model(grid, 6, 1)
    want = merged(task_arithmetic(0.3), deltas)
    np.testing.assert_array_equal(merged(tatr(scale=0.3), deltas), want)


@pytest.mark.parametrize("quantile", [99, 0])
def test_the_quantile_is_a_fraction(quantile):
    with pytest.raises(ValueError, match=r"tatr.*quantile is a fraction in \(0, 1\]"):
        tatr(quantile)
