"""Low-rank experts, merged in the small space that all of them share."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax.linalg import polar
from mda_jax.primitives.subspaces import side_by_side


class CoreSpace(NamedTuple):
    """Deltas `left @ cores[t] @ right^T`, of `c = k r` dimensions on both sides.

    Attributes:
      left: orthonormal columns that span every expert's outputs; dependent ones leave
        a partial isometry, which serves as well.
      cores: one small matrix per expert: deltas for any stage.
      right: the same for the inputs.
    """

    left: Float[Array, "m c"]
    cores: Float[Array, "k c c"]
    right: Float[Array, "n c"]

    def lifted(self, rows: Float[Array, "j c c"]) -> Float[Array, "j m n"]:
        """What a stage made of the cores, as deltas of the weight."""
        inner = jnp.matmul(self.left, rows, precision="highest")
        return jnp.matmul(inner, self.right.T, precision="highest")


def core_space(up: Float[Array, "k m r"], down: Float[Array, "k r n"]) -> CoreSpace:
    """The cores of LoRA experts `up[t] @ down[t]`, without forming these products.

    Norms, singular values and angles between directions are those of the full deltas,
    so methods that look at nothing else (`tsv`, the directions of `iso_c` and `mda`)
    give the same there; means over `min(m, n)` directions become means over `c`.

    Args:
      up: the experts' factors on the output side, with their scaling.
      down: those on the input side.

    Raises:
      Nothing.

    Paper:
      Panariello et al., Accurate and Efficient Low-Rank Model Merging in Core Space,
      2025, https://arxiv.org/abs/2509.17786. Differs: polar factors instead of
      singular vectors as the bases.
    """
    left, right = polar(side_by_side(up)), polar(side_by_side(down.swapaxes(1, 2)))
    outputs = jnp.einsum("mc,kmr->kcr", left, up, precision="highest")
    inputs = jnp.einsum("krn,nc->krc", down, right, precision="highest")
    return CoreSpace(left, jnp.matmul(outputs, inputs, precision="highest"), right)
