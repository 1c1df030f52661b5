"""SCE step by step, one entry at a time in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import Side, primitives as p
from mda_jax.methods import sce
from mda_jax.methods._sce import energy_shares, guarded_energy_shares


def oracle(d, share):
    flat = d.astype(np.float64).reshape(len(d), -1)
    n = flat.shape[1]
    # sums of squares of pairwise differences: exact on the grid, variance times k^2
    variance = [np.sum((x[:, None] - x[None]) ** 2) for x in flat.T]
    keep = max(1, int(share * np.count_nonzero(variance)))
    order = sorted(range(n), key=lambda i: -variance[i])
    chosen = [i for i in order[:keep] if variance[i]] if share < 1 else range(n)
    selected = np.zeros_like(flat)
    selected[:, chosen] = flat[:, chosen]
    energies = (selected**2).sum(1)
    weights = energies / energies.sum() if energies.any() else np.ones(len(d)) / len(d)
    merged = np.zeros((1, n))
    for i, column in enumerate(selected.T):
        agree = column * column.sum() > 0
        if agree.any():
            merged[0, i] = np.sum((weights * column)[agree]) / weights[agree].sum()
    return merged.reshape(1, *d.shape[1:])


@jax.jit
def merged(share, d):
    return sce(share)(d, Side(d[0]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k, shape", [(2, (7,)), (3, (4, 6)), (5, (3, 2, 4)), (3, ())])
@pytest.mark.parametrize("share", [0.125, 0.5, 1.0])
def test_selects_calculates_and_erases(seed, k, shape, share):
    d = grid(seed, (k, *shape))
    n = d[0].size
    # energies sum n squares; a mean of agreeing entries has k products and a quotient
    assert_close(merged(share, jnp.asarray(d)), oracle(d, share), flops=2 * (n + k))


def test_where_the_experts_agree_there_is_nothing_to_select():
    d = jnp.asarray(grid(0, (1, 4, 6))) / 10  # whose multiples are rounded
    for same in (d, jnp.tile(d, (7, 1, 1))):
        np.testing.assert_array_equal(merged(0.5, same), jnp.zeros_like(d))
        np.testing.assert_allclose(merged(1.0, same), d, rtol=1e-6)


def test_only_the_guard_of_mergekit_looks_at_the_size():
    squares = jnp.asarray([5.0, 2.5])
    for shares in (energy_shares, guarded_energy_shares):
        np.testing.assert_allclose(shares(squares), [2 / 3, 1 / 3], rtol=1e-6)
        np.testing.assert_array_equal(shares(0 * squares), [0.5, 0.5])
    tiny = 1e-12 * squares
    np.testing.assert_allclose(energy_shares(tiny), [2 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(guarded_energy_shares(tiny), [0.5, 0.5])


def test_rules_may_be_others():
    d = jnp.asarray([[2e-4, 1e-4], [1e-4, -1e-4]])
    plain = sce(1.0)(d, Side(d[0]))
    np.testing.assert_allclose(plain, [[(5 * 2 + 2) / 7 * 1e-4, 0]], rtol=1e-5)
    method = sce(
        1.0, coefficients=guarded_energy_shares, elect=p.nonnegative_sign_of_sum
    )
    np.testing.assert_allclose(method(d, Side(d[0])), [[1.5e-4, 1e-4]], rtol=1e-5)


@pytest.mark.parametrize("share, hint", [(10, "share=0.1"), (0, "")])
def test_share_is_a_fraction(share, hint):
    with pytest.raises(ValueError, match=rf"sce.*fraction in \(0, 1\].*{hint}"):
        sce(share)
