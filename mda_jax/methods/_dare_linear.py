"""DARE, then task arithmetic."""

from collections.abc import Callable

from jax.tree_util import Partial

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Number, Side, Stage
from mda_jax.combine import chain, sided, stage


def dare_linear(
    density: Number = 0.5,
    scale: Number = 0.3,
    *,
    rescale: Callable[..., Deltas] = p.by_probability,
    ids: p.Weights | None = None,
) -> Stage:
    """Drop entries at random, rescale the rest, add the scaled deltas to the base.

    Args:
      density: probability to keep an entry, in (0, 1]: 1 minus the paper's drop rate.
      scale: multiplier of every delta, dimensionless.
      rescale: `(kept, deltas, density) -> kept`: `primitives.by_probability`,
        `primitives.by_l1_norm` or `primitives.as_kept`.
      ids: integers, one per expert: who keeps its id keeps its mask. None: 0..k-1, so
        that the result depends on the order of the experts.

    Returns:
      A stage `[k, *d] -> [k, *d]`. It is random: the mask is drawn from the key, the
      weight's name and the expert's id. Scaling every delta scales the result.

    Raises:
      ValueError: `density` is outside (0, 1]; in `merge`, if there is no key, or not
        one id per expert.

    Paper:
      Yu et al., Language Models are Super Mario, 2023,
      https://arxiv.org/abs/2311.03099, section 3.2.
      mergekit gives every expert its realised L1 norm back: `primitives.by_l1_norm`.
    """
    _check.fraction("dare_linear", density=density)
    drop = sided(dropped, density=density, rescale=Partial(rescale), ids=ids)
    return chain(drop, stage(p.scaled, by=scale))


def dropped(
    d: Deltas,
    side: Side,
    *,
    density: p.Density,
    rescale: Callable[..., Deltas],
    ids: p.Weights | None = None,
) -> Deltas:
    """Entries kept with probability `density`, rescaled."""
    key = _check.needs_key("dare", side.key)
    kept = p.drop(d, key=key, density=density, ids=ids)
    return rescale(kept, d, density)
