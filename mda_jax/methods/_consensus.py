"""Consensus merging with TALL masks."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Deltas, Number, Side, Stage, WholeModel
from mda_jax.combine import chain, sided, stage, whole_model


def consensus(
    share: p.Weights = 0.4,
    votes: Number = 2,
    scale: Number = 0.3,
    *,
    multi: Stage | WholeModel | None = None,
) -> Stage | WholeModel:
    """Keep the entries of the merged delta that several experts need.

    Args:
      share: an expert needs an entry where its delta is larger than `share` times
        what it lacks of the merged delta; dimensionless, one number or one per expert.
        The larger, the fewer.
      votes: experts that must need an entry: 0 keeps all, 1 drops what nobody needs,
        more than k keeps nothing.
      scale: multiplier of the merged delta, dimensionless.
      multi: the method whose result is masked. None: the sum of the deltas. A
        `WholeModel`, such as `ties_global(merged=primitives.agreeing_sum)`, makes this
        one, too.

    Returns:
      A stage `[k, *d] -> [1, *d]`. Scaling every delta scales the result.

    Raises:
      ValueError: in `merge`, if there is neither one share nor one per expert.

    Paper:
      Wang et al., Localizing Task Information for Improved Model Merging and
      Compression, 2024, https://arxiv.org/abs/2405.07813, section 5.
      Differs: the authors choose `share` per expert, from 0.2 to 0.6, and `scale` on
      validation data. fusion-bench fixes a share of 0.6, and its masks compare the
      base less the delta.
    """
    numbers = {"share": p.per_expert(share), "votes": votes, "scale": scale}
    if isinstance(multi, WholeModel):
        surveys, settle = multi
        return whole_model(_settled, *surveys, settle=settle, **numbers)
    return _masked(stage(p.total) if multi is None else multi, **numbers)


def _settled(*found: Any, settle: Callable[..., Stage], **numbers: Any) -> Stage:
    return _masked(settle(*found), **numbers)


def _masked(multi: Stage, *, scale: Number, **numbers: Any) -> Stage:
    return chain(sided(_agreed, multi=multi, **numbers), stage(p.scaled, by=scale))


def _agreed(
    d: Deltas, side: Side, *, multi: Stage, share: Array, votes: Number
) -> Float[Array, " 1 *d"]:
    merged = p.total(multi(d, side))
    needed = p.tall_masks(d, merged=merged, share=share).astype(d.dtype)
    return jnp.where(p.total(needed) >= jnp.asarray(votes, d.dtype), merged, 0)
