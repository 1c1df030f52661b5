"""DC-Merge."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import _check, primitives as p
from mda_jax._types import Number, Stage
from mda_jax.combine import spectral, stage
from mda_jax.linalg import polar


def dc_merge(density: Number = 0.001, scale: Number = 1.0) -> Stage:
    """Elect signs of the experts' largest coordinates in one basis that covers all.

    Args:
      density: fraction of its coordinates each expert keeps, in (0, 1]; at least one
        coordinate. Not a percentage.
      scale: multiplier of the merged delta, dimensionless.

    Returns:
      A stage `[k, *d] -> [1, *d]`. For matrices and convolutions `[m, n]` the
      `r = max(1, min(m, n) // k)` leading directions of each expert are made
      orthonormal on both sides; every expert's part is written in that basis, trimmed,
      and merged by sign election; only the blocks of coordinates that belong to one
      expert on both sides stay. All other leaves take the mean of the deltas. Scaling
      every delta scales the result.

    Raises:
      ValueError: `density` is outside (0, 1].

    Paper:
      DC-Merge, 2026, https://arxiv.org/abs/2603.06242, in the form for full
      fine-tuning (the experts' own spectra, not smoothed).
      Differs: among equal magnitudes the earlier coordinate stays, where the authors'
      code keeps all; an expert keeps one direction where `min(m, n) < k`. Embeddings
      and heads are averaged.
    """
    _check.fraction("dc_merge", density=density)
    return spectral(stage(covered, density=density), scale)


def covered(d: Float[Array, "k m n"], *, density: Number) -> Float[Array, "1 m n"]:
    """The merge of `dc_merge` in the cover basis."""
    k, rank = len(d), p.rank_of_each(d)
    left, core, right = p.leading_subspaces(d, rank)
    u, v = polar(p.side_by_side(left)), polar(p.side_by_side(right))
    inner = jnp.einsum("mc,kmr->kcr", u, left, precision="highest")
    outer = jnp.einsum("nc,knr->krc", v, right, precision="highest")
    coordinates = jnp.matmul(inner, jnp.matmul(core, outer, precision="highest"))
    count = jnp.floor(jnp.asarray(density, jnp.float32) * (k * rank) ** 2)
    kept = p.keep_count(coordinates, count=count)
    (merged,) = p.agreeing_mean(kept, sign=p.sign_of_sum(kept))
    blocks = jnp.kron(jnp.eye(k, dtype=d.dtype), jnp.ones((rank, rank), d.dtype))
    return jnp.linalg.multi_dot([u, merged * blocks, v.T], precision="highest")[None]
