"""TALL masks against their definition, one entry at a time."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid
from methods.whole import SHAPES, flat, model

from mda_jax import primitives as p
from mda_jax.compression import tall_masks
from mda_jax.methods import ties_global


def served(deltas, k, **options):
    base = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
    experts = [{name: d[t] for name, d in deltas.items()} for t in range(k)]
    unified = tall_masks(base, experts, **options)
    each = [unified.expert(t) for t in range(k)]
    return flat({name: np.stack([tree[name] for tree in each]) for name in SHAPES})


def oracle(rows, whole, shares):
    kept = np.zeros_like(rows)
    for t, share in enumerate(shares):
        for i, x in enumerate(rows[t]):
            kept[t, i] = whole[i] if abs(x) > share * abs(whole[i] - x) else 0
    return kept


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 2, 4])
def test_is_the_definition(seed, k):
    deltas = model(grid, seed, k)
    rows, shares = flat(deltas), [0.25, 0.5, 0.625, 1.5][:k]
    want = oracle(rows, rows.sum(axis=0), shares)
    np.testing.assert_array_equal(served(deltas, k, share=shares), want)


def test_masks_any_merge():
    deltas = model(grid, 5, 3)
    rows = flat(deltas)
    multi = ties_global(1.0, merged=p.agreeing_sum)
    signs = np.sign(rows.sum(axis=0))
    signs[signs == 0] = np.sign(signs.sum())
    whole = np.where(rows * signs > 0, rows, 0).sum(axis=0)
    want = oracle(rows, whole, [0.5] * 3)
    np.testing.assert_array_equal(served(deltas, 3, share=0.5, multi=multi), want)


def test_experts_that_share_no_entry_come_back():
    deltas = model(grid, 6, 2)
    for d in deltas.values():
        turns = np.arange(d[0].size).reshape(d.shape[1:]) % 2 == 0
        d[0], d[1] = np.where(turns, d[0], 0), np.where(turns, 0, d[1])
    np.testing.assert_array_equal(served(deltas, 2), flat(deltas))


def test_there_is_a_share_for_each_expert():
    base = {"w": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"has shape \(3,\), there are 2 experts"):
        tall_masks(base, [base] * 2, [0.1, 0.2, 0.3])
