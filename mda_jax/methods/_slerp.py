"""SLERP, spherical linear interpolation."""

import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Number, Side, Stage
from mda_jax.combine import sided, sided_survey, surveyed


EXPERTS = 1


def slerp(t: Number = 0.5, *, cosine: p.Cosine = p.cosine_or_one) -> Stage:
    """Go from the base to one expert along an arc instead of a straight line.

    Args:
      t: how far, in [0, 1]: 0 is the base, 1 the expert.
      cosine: `[2, 2, ...] -> [1, ...]`, of the angle, from the inner products of base
        and expert; the default is 1, hence linear, where one of them is 0.

    Returns:
      A stage `[1, *d] -> [1, *d]`: `[k, *d] -> [1, *d]` for exactly one expert. Each
      weight is one vector, seen from 0: with the angle `w` between the base `a` and
      the expert `b`, the merged weight is `(sin((1 - t) w) a + sin(t w) b) / sin(w)`;
      and `(1 - t) a + t b` where `|cos(w)|` is above 0.9995.

    Raises:
      ValueError: `t` is outside [0, 1]; in `merge`, if there is not one expert.

    Paper:
      Shoemake, Animating Rotation with Quaternion Curves, 1985,
      https://doi.org/10.1145/325334.325242, the formula "Slerp".
      Differs: for vectors of any length, which are not normalised. Linear where they
      are nearly parallel or opposite, or where one is 0. mergekit and fusion-bench
      take a right angle to a vector that is 0: `cosine=primitives.cosine`.
    """
    _check.within("slerp", 0.0, 1.0, t=t)
    return surveyed(_settled, sided_survey(_gram), t=t, cosine=Partial(cosine))


def _gram(d: Deltas, side: Side) -> Float[Array, " 2 2 *ones"]:
    """Inner products of the base and the expert."""
    _check.experts("slerp", EXPERTS, len(d))
    base = side.base.astype(d.dtype)[None]
    return p.gram(jnp.concatenate([base, base + d]), p.whole(d))


def _settled(gram: p.Gram, *, t: Number, cosine: Partial) -> Stage:
    shares = p.slerp_shares(cosine(gram), t, straight=0.9995)
    return sided(along_the_arc, shares=shares)


def along_the_arc(
    d: Deltas, side: Side, *, shares: tuple[p.Each, p.Each]
) -> Float[Array, " 1 *d"]:
    """What to add to the base, of which and of the expert these are the shares."""
    first, second = shares
    base = side.base.astype(d.dtype)[None]
    return (first + second - 1) * base + second * d
