"""DELLA's drop, then task arithmetic."""

from typing import Any

from jaxtyping import Array, Float

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Number, Side, Stage
from mda_jax.combine import chain, entrywise
from mda_jax.methods._dare_linear import dropped


def della_linear(
    density: Number = 0.5,
    epsilon: Number = 0.05,
    scale: Number = 0.3,
    *,
    rescale: p.Rescale = p.by_probability,
    ids: p.Weights | None = None,
) -> Stage:
    """Drop small entries more often than large ones, rescale, add the scaled deltas.

    Args:
      density: mean probability to keep an entry, in (0, 1]: 1 minus the paper's `p`.
      epsilon: the probability of a row rises with the rank of the magnitude from
        `density - epsilon` to `density + epsilon`, both in (0, 1]; of no effect where
        `density` is 1.
      scale: multiplier of every delta, dimensionless.
      rescale: `primitives.by_probability`, `by_l1_norm` or `as_kept`.
      ids: integers, one per expert: who keeps its id keeps its draws. None: 0..k-1, so
        that the result depends on the order of the experts.

    Returns:
      A stage `[k, *d] -> [k, *d]`. It is random: it draws from the key, the weight's
      name and the expert's id. A vector is one row; an entry alone in its row is kept
      with probability `density`. Of equal magnitudes the earlier counts as the larger.
      Scaling every delta scales the result.

    Raises:
      ValueError: `density`, or a probability, is outside (0, 1]; in `merge`, if there
        is no key, or not one id per expert.

    Paper:
      Deep et al., DELLA-Merging, 2024, https://arxiv.org/abs/2406.11617, section 3,
      step 1 (MagPrune).
      Differs: the sign election is left out, as in mergekit's method of this name.
      `epsilon` is half the spread, as in the authors' code, whose default this is;
      mergekit's is 0.15. mergekit rescales by `primitives.by_l1_norm`.
    """
    _check.probabilities("della_linear", density, epsilon)
    drop = dropped(by_rank, rescale, density=density, epsilon=epsilon, ids=ids)
    return chain(drop, entrywise(p.scaled, by=scale))


def by_rank(
    d: Deltas,
    side: Side,
    *,
    density: Number | Float[Array, " k"],
    epsilon: Number | Float[Array, " k"],
    ids: p.Weights | None = None,
) -> tuple[Deltas, Deltas]:
    """Entries kept with the probabilities `primitives.rank_density`, and these."""
    key = _check.needs_key("della", side.key)
    probability = p.rank_density(d, density=density, epsilon=epsilon)
    options: dict[str, Any] = {"ids": ids, "first_row": side.first_row}
    return p.drop(d, key=key, density=probability, **options), probability
