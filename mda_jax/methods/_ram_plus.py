"""RAM+."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mda_jax import primitives as p
from mda_jax._types import Deltas, Number, Stage
from mda_jax.combine import stage, survey, surveyed
from mda_jax.methods._ram import changers, changes


def ram_plus(
    epsilon: Number = 1e-5, gain: Number = 0.1, most_overlap: Number = 0.2
) -> Stage:
    """Average the entries that several experts changed, amplify those of one alone.

    Args:
      epsilon: an expert changed an entry if its delta is larger, in units of the
        weight.
      gain: amplification per overlap, dimensionless: `r` in the paper.
      most_overlap: the overlap counts up to here, dimensionless: `alpha` in the paper.

    Returns:
      A stage `[k, *d] -> [1, *d]`: `ram`, with the entries that one expert alone
      changed times `1 + gain * min(overlap, most_overlap)`. The overlap of an expert is
      the number of entries it changed with others, over that of those it changed alone.

    Raises:
      Nothing.

    Paper:
      Yuan et al., Behavior Knowledge Merge in Reinforced Agentic Models, 2026,
      https://arxiv.org/abs/2601.13572, "RAM+".
      Differs: the overlap is counted in every weight by itself, as in mergekit's
      `ramplus_tl`.
    """
    numbers = {"gain": gain, "most_overlap": most_overlap, "epsilon": epsilon}
    return surveyed(_settled, survey(_counts, epsilon=epsilon), **numbers)


def _counts(d: Deltas, *, epsilon: Number) -> Int[Array, " 2 k *ones"]:
    """How many entries each expert changed alone, and how many with others."""
    changed = changes(d, epsilon)
    count, axes = changers(changed, d), p.whole(d)
    which = jnp.stack([changed & (count == 1), changed & (count > 1)])
    return jnp.count_nonzero(which, tuple(axis + 1 for axis in axes), keepdims=True)


def _settled(counts: Int[Array, " 2 k *ones"], **numbers: Number) -> Stage:
    return stage(amplified_mean_of_changes, counts=counts, **numbers)


def amplified_mean_of_changes(
    d: Deltas,
    *,
    counts: Int[Array, " 2 k *ones"],
    epsilon: Number,
    gain: Number,
    most_overlap: Number,
) -> Float[Array, " 1 *d"]:
    """The merged delta of `ram_plus`."""
    changed = changes(d, epsilon)
    count = changers(changed, d)
    alone, shared = counts.astype(d.dtype)
    overlap = jnp.clip(shared / jnp.maximum(alone, 1), 0, most_overlap)
    factor = jnp.where(count == 1, 1 + gain * overlap, 1)
    return p.total(jnp.where(changed, factor * d, 0)) / jnp.maximum(count, 1)
