"""NearSwap."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import _check
from mda_jax._types import Deltas, Number, Stage
from mda_jax.combine import entrywise


EXPERTS = 1


def nearswap(t: Number = 1e-4) -> Stage:
    """Take an expert's entries where they are near the base; go `t` towards others.

    Args:
      t: how far an entry may move, in units of the weights, 0 or more.

    Returns:
      A stage `[1, *d] -> [1, *d]`: `[k, *d] -> [1, *d]` for exactly one expert. It
      clips the delta to `[-t, t]`.

    Raises:
      ValueError: `t` is negative; in `merge`, if there is not one expert.

    Paper:
      None; alchemonaut, QuartetAnemoi-70B-t0.0001, 2024,
      https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001, "NearSwap".
      Differs: only in form; an interpolation by `min(1, t / |delta|)` is a clip.
    """
    _check.within("nearswap", 0.0, float("inf"), t=t)
    return entrywise(clipped, within=t)


def clipped(d: Deltas, *, within: Number) -> Float[Array, " 1 *d"]:
    """Every entry within that distance of 0."""
    _check.experts("nearswap", EXPERTS, len(d))
    bound = jnp.asarray(within, d.dtype)
    return jnp.clip(d, -bound, bound)
