"""Simplex frames that class features are to meet."""

import jax
from jaxtyping import Array, Float, Key

from mda_jax import _check
from mda_jax.linalg import nearest_simplex_frame


def random_targets(
    key: Key[Array, ""], classes: int, width: int
) -> Float[Array, "c d"]:
    """A simplex frame of `classes` unit rows, rotated at random.

    Args:
      key: decides the rotation.
      classes: at least 2.
      width: of the features, at least `classes - 1`.

    Raises:
      ValueError: the width has no room for the frame.
    """
    _check.frame_fits("random_targets", classes, width)
    return aligned_targets(jax.random.normal(key, (classes, width)))


def aligned_targets(directions: Float[Array, "c d"]) -> Float[Array, "c d"]:
    """The simplex frame nearest to given directions, such as the rows of a head.

    Args:
      directions: one row per class; at least 2 rows, and `c - 1 <= d`.

    Returns:
      `[c, d]`: unit rows with pairwise cosine `-1 / (c - 1)`, rotated (Procrustes) to
      meet the directions.

    Raises:
      ValueError: the width has no room for the frame.
    """
    _check.frame_fits("aligned_targets", *directions.shape)
    return nearest_simplex_frame(directions.T).T
