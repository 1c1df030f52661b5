"""DARE, then the election and the mean of TIES."""

from mda_jax import _check, primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import chain, entrywise
from mda_jax.methods._dare_linear import at_random, dropped
from mda_jax.methods._ties import elected_mean


def dare_ties(
    density: Number = 0.5,
    scale: Number = 1.0,
    *,
    rescale: p.Rescale = p.by_probability,
    ids: p.Weights | None = None,
) -> Stage:
    """Drop entries at random, rescale the rest, elect signs, average who carries them.

    Args:
      density: probability to keep an entry, in (0, 1]: 1 minus the paper's drop rate.
      scale: multiplier of the merged delta, dimensionless.
      rescale: `primitives.by_probability`, `by_l1_norm` or `as_kept`.
      ids: integers, one per expert: who keeps its id keeps its mask. None: 0..k-1, so
        that the result depends on the order of the experts.

    Returns:
      A stage `[k, *d] -> [1, *d]`. It is random: the mask is drawn from the key, the
      weight's name and the expert's id. Scaling every delta scales the result.

    Raises:
      ValueError: `density` is outside (0, 1]; in `merge`, if there is no key, or not
        one id per expert.

    Paper:
      Yu et al., Language Models are Super Mario, 2023,
      https://arxiv.org/abs/2311.03099, section 3.2, with Yadav et al., TIES-Merging,
      2023, https://arxiv.org/abs/2306.01708, Algorithm 1.
      Differs: the random drop stands for the trim of TIES, as in mergekit; the
      authors' code and fusion-bench trim what DARE leaves. An entry whose signs cancel
      exactly merges to 0. mergekit sums the experts that carry the sign, and rescales
      by `primitives.by_l1_norm`.
    """
    _check.fraction("dare_ties", density=density)
    drop = dropped(at_random, rescale, density=density, ids=ids)
    return chain(drop, entrywise(elected_mean), entrywise(p.scaled, by=scale))
