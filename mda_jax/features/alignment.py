"""Turn the features of a task to a simplex frame, in closed form."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax.features.directions import unit_rows
from mda_jax.linalg import procrustes_rotation


class Alignment(NamedTuple):
    """How the features of one task meet their targets.

    Attributes:
      centre: of the class means, `[d]`.
      rotation: `q` of `(z - centre) q`, `[d, d]`, determinant +1.
      targets: unit rows, one for each class, `[c, d]`.
    """

    centre: Float[Array, " d"]
    rotation: Float[Array, "d d"]
    targets: Float[Array, "c d"]

    def turned(self, features: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Features about the centre, turned towards the targets."""
        centred = features - self.centre[None]
        return jnp.matmul(centred, self.rotation, precision="highest")

    @property
    def head(self) -> Float[Array, "c d"]:
        """The targets turned back: a head for features as they are.

        With `bias`, `z head^T + bias` equals `turned(z) targets^T`.
        """
        return jnp.matmul(self.targets, self.rotation.T, precision="highest")

    @property
    def bias(self) -> Float[Array, " c"]:
        """What belongs to `head`."""
        return -jnp.matmul(self.head, self.centre, precision="highest")


def align(means: Float[Array, "c d"], targets: Float[Array, "c d"]) -> Alignment:
    """Rotate the directions of class means to meet their targets.

    No data are needed beyond the means: those that an expert was shipped with, or those
    of a merged model over its own or an expert's predictions.

    Args:
      means: of the features of each class; a row of 0 is a class without samples and
        takes no part.
      targets: unit rows; see `aligned_targets` and `random_targets`.

    Returns:
      The rotation that brings the unit centred means nearest to the targets
      (`linalg.procrustes_rotation`), with what is needed to use it.

    Paper:
      Chen et al., From Coefficients to Directions, 2025,
      https://arxiv.org/abs/2512.00391: Procrustes rotations from empirical class means
      to a simplex frame. A reconstruction; that the rotation is kept and folded into
      the head, instead of serving a loss alone, is ours.
    """
    rotation = procrustes_rotation(centred_directions(means), targets)
    return Alignment(centre(means), rotation, targets)


def centre(means: Float[Array, "c d"]) -> Float[Array, " d"]:
    """Mean of the class means; rows of 0 take no part."""
    seen = (means != 0).any(1).sum(dtype=means.dtype)
    return means.sum(0) / jnp.maximum(seen, 1)


def centred_directions(means: Float[Array, "c d"]) -> Float[Array, "c d"]:
    """Unit rows of the class means about their centre; rows of 0 stay 0."""
    seen = (means != 0).any(1, keepdims=True)
    return unit_rows(jnp.where(seen, means - centre(means)[None], 0))
