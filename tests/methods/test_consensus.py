"""Consensus of TALL masks against its definition, one entry at a time, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid
from methods.whole import flat, merged, model

from mda_jax import merge, primitives as p
from mda_jax.methods import consensus, task_arithmetic, ties, ties_global


def oracle(rows, multi, shares, votes):
    kept = np.zeros_like(multi)
    for i, whole in enumerate(multi):
        each = zip(shares, rows[:, i], strict=True)
        needed = sum(abs(x) > share * abs(whole - x) for share, x in each)
        kept[i] = whole if needed >= votes else 0
    return kept


# shares of a few bits, so that comparisons are exact in float32
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("share", [0.25, 0.625])
@pytest.mark.parametrize("votes", [0, 1, 2, 5])
def test_is_the_definition(seed, k, share, votes):
    deltas = model(grid, seed, k)
    rows = flat(deltas)
    want = 0.7 * oracle(rows, rows.sum(axis=0), [share] * k, votes)
    got = merged(consensus(share, votes, scale=0.7), deltas)
    assert_close(got, want, flops=k + 1)


def test_every_expert_may_have_its_share():
    deltas, shares = model(grid, 5, 3), [0.25, 1.5, 0.5]
    rows = flat(deltas)
    want = oracle(rows, rows.sum(axis=0), shares, 2)
    assert_close(merged(consensus(shares, scale=1.0), deltas), want, flops=3)


def test_an_entry_at_the_bound_is_not_needed():
    deltas = {"w": np.float32([[1, 1.25], [4, 4]])}
    got = merged(consensus(0.25, votes=2, scale=1.0), deltas)
    np.testing.assert_array_equal(got, [0, 5.25])


def test_no_votes_is_task_arithmetic():
    deltas = model(grid, 6, 3)
    want = merged(task_arithmetic(0.25), deltas)
    np.testing.assert_array_equal(merged(consensus(votes=0, scale=0.25), deltas), want)


@pytest.mark.parametrize(
    "multi",
    [
        pytest.param(ties(0.5), id="ties"),
        pytest.param(
            ties_global(0.5, merged=p.agreeing_sum), id="global", marks=pytest.mark.slow
        ),
    ],
)
def test_masks_what_another_method_merged(multi):
    deltas = model(grid, 8, 3)
    whole = np.asarray(merged(multi, deltas), np.float64)
    want = oracle(flat(deltas), whole, [0.5] * 3, 2)
    got = merged(consensus(0.5, scale=1.0, multi=multi), deltas)
    assert_close(got, want, flops=1)
    assert 0 < np.count_nonzero(got) < np.count_nonzero(whole)


def test_there_is_a_share_for_each_expert():
    zeros = {"w": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"has shape \(3,\), there are 2 experts"):
        merge(zeros, [zeros] * 2, consensus([0.1, 0.2, 0.3]))
