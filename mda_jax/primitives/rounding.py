"""Rounding to a narrower type."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def rounded(x: Float[Array, "*n"], *, to: np.dtype) -> Float[Array, "*n"]:
    """The nearest numbers of a narrower type, in the type of `x`.

    A sum, product, quotient or root of two numbers of bfloat16 or float16 that is
    computed in float32 and rounded so is the one that the narrow type has.

    Args:
      x: any numbers.
      to: the type, such as bfloat16.

    Returns:
      The numbers: between two neighbours the even one, beyond the range infinity.
    """
    # XLA may leave out a conversion that it sees undone, but never this.
    kind = jnp.finfo(to)
    near = jax.lax.reduce_precision(x, kind.nexp, kind.nmant)
    if kind.nexp == jnp.finfo(x.dtype).nexp:
        return near
    small, step = jnp.abs(x) < float(kind.tiny), float(kind.smallest_subnormal)
    return jnp.where(small, jnp.round(x / step) * step, near)
