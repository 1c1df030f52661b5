"""One expert as it is."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import _check
from mda_jax._types import Deltas, Number, Side, Stage
from mda_jax.combine import sided, surveyed


EXPERTS = 1


def passthrough(scale: Number = 1.0) -> Stage:
    """Take the weights of one expert, times a number.

    Args:
      scale: multiplier of the expert's weights, dimensionless; not of its delta.

    Returns:
      A stage `[1, *d] -> [1, *d]`: `[k, *d] -> [1, *d]` for exactly one expert. To
      stack the layers of several models, give each weight its expert.

    Raises:
      ValueError: in `merge`, if there is not one expert.

    Paper:
      None; the method of mergekit, https://github.com/arcee-ai/mergekit,
      "Passthrough".
    """
    return surveyed(_settled, by=scale)


def _settled(*, by: Number) -> Stage:
    return sided(scaled_expert, by=by)


def scaled_expert(d: Deltas, side: Side, *, by: Number) -> Float[Array, " 1 *d"]:
    """What to add to the base."""
    _check.experts("passthrough", EXPERTS, len(d))
    scale = jnp.asarray(by, d.dtype)
    return scale * d + (scale - 1) * side.base.astype(d.dtype)[None]
