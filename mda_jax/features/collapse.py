"""How far features are from neural collapse."""

from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mda_jax import primitives as p
from mda_jax.features.directions import unit_rows
from mda_jax.features.means import class_means
from mda_jax.linalg import inverse_sqrt, simplex_etf


_product = partial(jnp.matmul, precision="highest")


class NeuralCollapse(NamedTuple):
    """Four distances, each 0 when features have collapsed.

    Attributes:
      variability: NC1, the spread within classes over that between them:
        `trace(S_within S_between^+) / classes`.
      frame: NC2, `etf_deviation` of the centred class means, in [0, 2].
      duality: NC3, `||H / ||H|| - M / ||M||||` of head and centred class means, in
        [0, 2].
      nearest_mean: NC4, the fraction of samples that the head and the nearest class
        mean classify differently.
    """

    variability: Float[Array, ""]
    frame: Float[Array, ""]
    duality: Float[Array, ""]
    nearest_mean: Float[Array, ""]


def neural_collapse(
    features: Float[Array, "n d"], labels: Int[Array, " n"], head: Float[Array, "c d"]
) -> NeuralCollapse:
    """Measure the four signs of neural collapse.

    Args:
      features: one row per sample; every class needs at least one.
      labels: classes in [0, c).
      head: the classifier's directions, without bias.

    Paper:
      Papyan, Han, Donoho, Prevalence of Neural Collapse, 2020,
      https://arxiv.org/abs/2008.08186, section 1.3. Classes count equally.
    """
    means = class_means(features, labels, len(head))
    centred = means - means.mean(0, keepdims=True)
    squares = ((features[:, None] - means[None]) ** 2).sum(-1)
    nearest = squares.argmin(-1)
    chosen = _product(features, head.T).argmax(-1)
    return NeuralCollapse(
        _variability(features - means[labels], centred),
        etf_deviation(centred),
        _norm(_unit(head) - _unit(centred)),
        jnp.mean(nearest != chosen),
    )


def etf_deviation(x: Float[Array, "k d"]) -> Float[Array, ""]:
    """Distance of k directions from a simplex equiangular tight frame.

    Args:
      x: directions in rows, of any length; k at least 2. Centre class means first.

    Returns:
      `|| G / ||G|| - G* / ||G*|| ||` with the Gram matrix G of the unit rows and G*
      that of the frame: in [0, 2], 0 at any rotation of the frame.
    """
    rows = unit_rows(x)
    frame = simplex_etf(len(x), x.dtype)
    return _norm(_unit(_product(rows, rows.T)) - _unit(frame))


def _variability(
    residuals: Float[Array, "n d"], centred: Float[Array, "c d"]
) -> Float[Array, ""]:
    """With the pseudo-inverse of `A^T A` as `A^T (A A^T)^-2 A`, through c x c only."""
    a = centred / len(centred) ** 0.5
    root = inverse_sqrt(_product(a, a.T))
    inverse = _product(root, root)
    inside = _product(_product(residuals, a.T), inverse)
    return (inside * inside).sum() / len(residuals) / len(centred)


def _unit(x: Float[Array, "p q"]) -> Float[Array, "p q"]:
    norm = _norm(x)
    return x / jnp.where(norm > 0, norm, 1)


def _norm(x: Float[Array, "p q"]) -> Float[Array, ""]:
    """The Frobenius norm; its gradient at 0 is 0."""
    return p.root((x * x).sum())
