"""SCE: select, calculate, erase."""

from collections.abc import Callable

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Number, Stage
from mda_jax.combine import chain, stage, survey, surveyed


Squares = tuple[Float[Array, " k"], Int[Array, ""]]


def energy_shares(energies: Float[Array, " k"]) -> Float[Array, " k"]:
    """Each expert's share in the sum of squares; equal ones where that is 0."""
    whole = energies.sum()
    shares = energies / jnp.where(whole > 0, whole, 1)
    return jnp.where(whole > 0, shares, 1 / len(energies))


def guarded_energy_shares(energies: Float[Array, " k"]) -> Float[Array, " k"]:
    """mergekit's shares: equal ones where the mean squares sum to less than 1e-6."""
    tiny = energies.sum() < 1e-6
    return jnp.where(tiny, 1 / len(energies), energy_shares(energies))


def sce(
    share: Number = 0.1,
    *,
    coefficients: Callable[..., Array] = energy_shares,
    elect: Callable[..., Array] = p.sign_of_sum,
) -> Stage:
    """Keep what the experts differ in most, weigh by energy, drop minority signs.

    Args:
      share: fraction kept of the entries in which the experts differ, in (0, 1]. Not a
        percentage. 1: every entry is kept.
      coefficients: `[k] -> [k]`, the weights of the experts from their mean squares:
        `energy_shares`, or `guarded_energy_shares`.
      elect: `[k, *d] -> [1, *d]`, the sign of every entry: `primitives.sign_of_sum`, or
        `primitives.nonnegative_sign_of_sum`.

    Returns:
      A stage `[k, *d] -> [1, *d]`: of the entries of the largest variance over the
      experts, the mean over those that carry the elected sign, weighted by their sums
      of squares. All other entries stay: with `share` below 1 also those in which the
      experts agree, so that nothing is left of one expert alone. Scaling every delta
      scales the result.

    Raises:
      ValueError: `share` is outside (0, 1].

    Paper:
      Wan et al., FuseChat, 2024, https://arxiv.org/abs/2408.07990, section 3.3.
      Differs: the weights are divided by the sum of those that carry the sign, as in
      the authors' code. Exactly `floor(share * n)` entries, at least one, are kept of
      the `n` that differ: among equal variances the earlier. An entry whose signs
      cancel exactly merges to 0. mergekit takes equal weights for small deltas
      (`guarded_energy_shares`), and the positive sign where signs cancel
      (`primitives.nonnegative_sign_of_sum`).
    """
    _check.fraction("sce", share=share)
    return chain(stage(most_varying, share=share), fused(coefficients, elect))


def fused(coefficients: Callable[..., Array], elect: Callable[..., Array]) -> Stage:
    """A stage that is `sce` with all entries kept; its arguments are those of `sce`."""
    rules = {"coefficients": Partial(coefficients), "elect": Partial(elect)}
    return surveyed(_settled, survey(_squares), **rules)


def most_varying(d: Deltas, *, share: Number) -> Deltas:
    """Zero all but the entries of the largest variance over the experts."""
    x = d - d[:1]  # exactly 0 where the experts agree
    variance = p.total(jnp.square(len(d) * x - p.total(x)))  # times k^3
    part = jnp.asarray(share, "float32")
    count = jnp.floor(part * jnp.count_nonzero(variance).astype("float32"))
    kept = p.keep_count(variance, count=count.astype(int))
    return jnp.where((kept != 0) | (part >= 1), d, 0)


def _squares(d: Deltas) -> Squares:
    """Each expert's sum of squares, and of how many."""
    return jnp.square(d).sum(tuple(range(1, d.ndim))), jnp.int32(d[0].size)


def _settled(squares: Squares, *, coefficients: Partial, elect: Partial) -> Stage:
    total, entries = squares
    weights = coefficients(total / entries.astype(total.dtype))
    return stage(_agreeing, weights=weights, elect=elect)


def _agreeing(
    d: Deltas, *, weights: Float[Array, " k"], elect: Partial
) -> Float[Array, " 1 *d"]:
    rows = p.weighted(d, weights=weights)
    return p.agreeing_weighted_mean(rows, sign=elect(d), weights=weights)
