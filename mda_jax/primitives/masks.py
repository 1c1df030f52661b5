"""Which entries of a merged delta belong to an expert."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mda_jax._types import Deltas
from mda_jax.primitives.averages import Weights, per_expert, scaled, weighted


def tall_masks(
    d: Deltas, *, merged: Float[Array, " 1 *d"], share: Weights
) -> Bool[Array, " k *d"]:
    """Where an expert's delta is larger than `share` times what it lacks of the merged.

    Args:
      d: the experts' deltas.
      merged: the merged delta.
      share: dimensionless, one number or one per expert.
    """
    lacking, shares = jnp.abs(merged - d), per_expert(share)
    if shares.ndim:
        return jnp.abs(d) > weighted(lacking, weights=shares)
    return jnp.abs(d) > scaled(lacking, by=shares)
