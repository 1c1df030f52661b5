"""RAM, Reinforced Agent Merging."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mda_jax import primitives as p
from mda_jax._types import Deltas, Number, Stage
from mda_jax.combine import entrywise


def ram(epsilon: Number = 1e-5) -> Stage:
    """Average every entry over the experts that changed it.

    Args:
      epsilon: an expert changed an entry if its delta is larger, in units of the
        weight.

    Returns:
      A stage `[k, *d] -> [1, *d]`: an entry that one expert changed is taken over as
      it is, one that several changed is their mean, all others stay.

    Raises:
      Nothing.

    Paper:
      Yuan et al., Behavior Knowledge Merge in Reinforced Agentic Models, 2026,
      https://arxiv.org/abs/2601.13572, "RAM".
    """
    return entrywise(mean_of_changes, epsilon=epsilon)


def mean_of_changes(d: Deltas, *, epsilon: Number) -> Float[Array, " 1 *d"]:
    """Mean over the experts that changed an entry by more than `epsilon`; else 0."""
    changed = changes(d, epsilon)
    return p.total(jnp.where(changed, d, 0)) / jnp.maximum(changers(changed, d), 1)


def changes(d: Deltas, epsilon: Number) -> Bool[Array, " k *d"]:
    """Which entries an expert changed by more than `epsilon`."""
    return jnp.abs(d) > jnp.asarray(epsilon, d.dtype)


def changers(changed: Bool[Array, " k *d"], d: Deltas) -> Float[Array, " 1 *d"]:
    """How many experts changed an entry."""
    return p.total(changed.astype(d.dtype))
