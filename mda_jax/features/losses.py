"""What merging with features lowers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mda_jax.features.directions import unit_rows


def entropy(logits: Float[Array, "n c"]) -> Float[Array, ""]:
    """Mean Shannon entropy of the predicted classes, in nats.

    Paper:
      Yang et al., AdaMerging, 2023, https://arxiv.org/abs/2310.02575, equation 4.
      Differs: without the authors' 1e-8 inside the logarithm.
    """
    logs = jax.nn.log_softmax(logits)
    return -(jnp.exp(logs) * logs).sum(-1).mean()


def alignment_loss(
    features: Float[Array, "n d"],
    labels: Int[Array, " n"],
    rotation: Float[Array, "d d"],
    targets: Float[Array, "c d"],
) -> Float[Array, ""]:
    """Mean squared distance of rotated unit features from the targets of their classes.

    Args:
      features: one row per sample; a row of 0 stays 0.
      labels: classes or pseudo-labels in [0, c).
      rotation: `q` of `z q`, as `linalg.procrustes_rotation` gives it.
      targets: unit rows; see `aligned_targets`.

    Returns:
      A number in [0, 4].

    Paper:
      Chen et al., From Coefficients to Directions, 2025,
      https://arxiv.org/abs/2512.00391: the pull of rotated features to the vector of
      their class in a simplex frame. A reconstruction: unit features are ours.
    """
    turned = jnp.matmul(unit_rows(features), rotation, precision="highest")
    return ((turned - targets[labels]) ** 2).sum(1).mean()


def rotation_loss(
    rotation: Float[Array, "d d"], nearest: Float[Array, "d d"]
) -> Float[Array, ""]:
    """Squared Frobenius distance of a rotation from the one that Procrustes gives."""
    return ((rotation - nearest) ** 2).sum()
