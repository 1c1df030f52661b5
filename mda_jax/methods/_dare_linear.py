"""DARE, then task arithmetic."""

from collections.abc import Callable
from typing import Any

from jax.tree_util import Partial

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Number, Side, Stage
from mda_jax.combine import (
    Fixed,
    chain,
    entrywise,
    sided,
    sided_survey,
    surveyed,
)


def dare_linear(
    density: Number = 0.5,
    scale: Number = 0.3,
    *,
    rescale: p.Rescale = p.by_probability,
    ids: p.Weights | None = None,
) -> Stage:
    """Drop entries at random, rescale the rest, add the scaled deltas to the base.

    Args:
      density: probability to keep an entry, in (0, 1]: 1 minus the paper's drop rate.
      scale: multiplier of every delta, dimensionless.
      rescale: `primitives.by_probability`, `by_l1_norm` or `as_kept`.
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
    drop = dropped(at_random, rescale, density=density, ids=ids)
    return chain(drop, entrywise(p.scaled, by=scale))


def dropped(
    drop: Callable[..., tuple[Deltas, p.Density]], rescale: p.Rescale, **numbers: Any
) -> Stage:
    """A stage that drops entries, and rescales the others.

    Args:
      drop: `(deltas, side, **numbers) -> kept, probabilities`, each row by itself.
      rescale: as for `dare_linear`.
      numbers: of `drop`.
    """
    rules = {"drop": Partial(drop, **numbers), "rescale": Fixed(rescale)}
    return surveyed(_settled, sided_survey(_found, **rules), **rules)


def at_random(
    d: Deltas, side: Side, *, density: p.Density, ids: p.Weights | None = None
) -> tuple[Deltas, p.Density]:
    """Entries kept with probability `density`, and that."""
    key = _check.needs_key("dare", side.key)
    options: dict[str, Any] = {"ids": ids, "first_row": side.first_row}
    return p.drop(d, key=key, density=density, **options), density


def _found(d: Deltas, side: Side, *, drop: Partial, rescale: Fixed) -> Any:
    kept, _ = drop(d, side)
    return rescale.value.find(kept, d)


def _settled(found: Any, *, drop: Partial, rescale: Fixed) -> Stage:
    return sided(_rescaled, found=found, drop=drop, rescale=rescale)


def _rescaled(
    d: Deltas, side: Side, *, found: Any, drop: Partial, rescale: Fixed
) -> Deltas:
    kept, density = drop(d, side)
    return rescale.value.apply(kept, density, found)
