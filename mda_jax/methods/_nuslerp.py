"""NuSLERP: SLERP of two deltas."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Stage
from mda_jax.combine import stage, survey, surveyed


EXPERTS = 2


def nuslerp(
    weights: p.Weights | None = None,
    *,
    vectors: Callable[..., p.Axes] = p.whole,
    cosine: p.Cosine = p.cosine_or_one,
) -> Stage:
    """Interpolate between the deltas of two experts along an arc.

    Args:
      weights: of both experts, dimensionless; the arc is divided at
        `t = weights[1] / sum(weights)`, in the middle where their sum is below 1e-6.
        None: in the middle.
      vectors: what counts as one vector: the whole weight (`primitives.whole`), every
        output's weights (`rows`) or every input's (`columns`).
      cosine: `[2, 2, ...] -> [1, ...]`, of the angles, from the inner products of the
        deltas; the default is 1, hence linear, where a delta is 0.

    Returns:
      A stage `[2, *d] -> [1, *d]`: `[k, *d] -> [1, *d]` for exactly two experts. With
      the angle `w` between the deltas `a` and `b` this is
      `(sin((1 - t) w) a + sin(t w) b) / sin(w)`; and `(1 - t) a + t b` where they are
      parallel or opposite to rounding. Scaling every delta scales the result.

    Raises:
      ValueError: there are not two weights; in `merge`, if there are not two experts.

    Paper:
      None; the method of mergekit, https://github.com/arcee-ai/mergekit, "NuSLERP",
      after Shoemake, Animating Rotation with Quaternion Curves, 1985.
      Differs: linear where a delta is 0. mergekit takes a right angle to it, so that
      the other delta is multiplied by `sin((1 - t) pi / 2)`:
      `cosine=primitives.cosine`. Its `nuslerp_flatten: false` is `rows`, and
      `columns` with `nuslerp_row_wise: true`. Without a base model it interpolates
      weights: merge into a base of zeros.
    """
    weights = p.per_expert([1.0, 1.0] if weights is None else weights)
    _check.one_per_expert("nuslerp", EXPERTS, weights=weights)
    numbers = {"weights": weights, "cosine": Partial(cosine)}
    vectors = Partial(vectors)
    return surveyed(
        _settled, survey(_gram, vectors=vectors), vectors=vectors, **numbers
    )


def _gram(d: Deltas, *, vectors: Partial) -> p.Gram | None:
    _check.experts("nuslerp", EXPERTS, len(d))
    return p.gram_across_rows(d, vectors(d))


def _settled(gram: p.Gram | None, **numbers: Any) -> Stage:
    return stage(between, gram=gram, **numbers)


def between(
    d: Deltas,
    *,
    gram: p.Gram | None,
    weights: Float[Array, " 2"],
    vectors: Partial,
    cosine: Partial,
) -> Float[Array, " 1 *d"]:
    """The interpolated delta, from the inner products of what runs across rows."""
    straight = 1 - 4 * float(jnp.finfo(d.dtype).eps)
    cosines = cosine(p.gram(d, vectors(d)) if gram is None else gram)
    first, second = p.slerp_shares(cosines, _division(weights), straight)
    return first * d[:1] + second * d[1:]


def _division(weights: Float[Array, " 2"]) -> Float[Array, ""]:
    total = weights.sum()
    some = jnp.abs(total) >= 1e-6
    return jnp.where(some, weights[1] / jnp.where(some, total, 1), 0.5)
