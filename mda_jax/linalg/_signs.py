"""One sign for each pair of singular vectors, whatever the back-end returned."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def leading_signs(left: Float[Array, "*b m r"]) -> Float[Array, "*b 1 r"]:
    """Signs that make the largest entry of every column positive.

    Entries within 1 % of the largest magnitude count as tied, and the first of them
    decides: rounding must not choose between entries that are equal in exact
    arithmetic.

    Args:
      left: left singular vectors in columns; multiply both sides by the result.

    Returns:
      `[*b, 1, r]` of 1 and -1.
    """
    size = jnp.abs(left)
    tied = size >= 0.99 * size.max(axis=-2, keepdims=True)
    first = jnp.argmax(tied, axis=-2, keepdims=True)
    return jnp.where(jnp.take_along_axis(left, first, axis=-2) < 0, -1, 1).astype(
        left.dtype
    )
