"""DELLA."""

from mda_jax import _check, primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import chain, entrywise
from mda_jax.methods._dare_linear import dropped
from mda_jax.methods._della_linear import by_rank
from mda_jax.methods._ties import elected_mean


def della(
    density: Number = 0.5,
    epsilon: Number = 0.05,
    scale: Number = 1.0,
    *,
    rescale: p.Rescale = p.by_probability,
    ids: p.Weights | None = None,
) -> Stage:
    """Drop small entries more often than large ones, rescale, elect signs, average.

    Args:
      density: mean probability to keep an entry, in (0, 1]: 1 minus the paper's `p`.
      epsilon: the probability of a row rises with the rank of the magnitude from
        `density - epsilon` to `density + epsilon`, both in (0, 1]; of no effect where
        `density` is 1.
      scale: multiplier of the merged delta, dimensionless.
      rescale: `primitives.by_probability`, `by_l1_norm` or `as_kept`.
      ids: integers, one per expert: who keeps its id keeps its draws. None: 0..k-1, so
        that the result depends on the order of the experts.

    Returns:
      A stage `[k, *d] -> [1, *d]`. It is random: it draws from the key, the weight's
      name and the expert's id. A vector is one row; an entry alone in its row is kept
      with probability `density`. Of equal magnitudes the earlier counts as the larger.
      Scaling every delta scales the result.

    Raises:
      ValueError: `density`, or a probability, is outside (0, 1]; in `merge`, if there
        is no key, or not one id per expert.

    Paper:
      Deep et al., DELLA-Merging, 2024, https://arxiv.org/abs/2406.11617, section 3
      (drop, elect, fuse).
      Differs: an entry whose signs cancel exactly merges to 0. `epsilon` is half the
      spread, as in the authors' code, whose default this is; mergekit's is 0.15.
      mergekit rescales by `primitives.by_l1_norm`.
    """
    _check.probabilities("della", density, epsilon)
    drop = dropped(by_rank, rescale, density=density, epsilon=epsilon, ids=ids)
    return chain(drop, entrywise(elected_mean), entrywise(p.scaled, by=scale))
