"""Means of the features of each class, at once or batch by batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mda_jax._types import Number


class ClassMeans(NamedTuple):
    """Running sums; a pytree, so it goes through `jit` and `scan`.

    >>> import jax.numpy as jnp
    >>> state = ClassMeans.empty(classes=2, width=1)
    >>> state = state.observe(jnp.array([[1.0], [3.0]]), jnp.array([0, 0]))
    >>> state.means.tolist()
    [[2.0], [0.0]]
    """

    sums: Float[Array, "c d"]
    counts: Float[Array, " c"]

    @classmethod
    def empty(cls, classes: int, width: int) -> "ClassMeans":
        """Nothing seen yet."""
        return cls(jnp.zeros((classes, width)), jnp.zeros(classes))

    def observe(
        self,
        features: Float[Array, "n d"],
        labels: Int[Array, " n"],
        *,
        keep: Number = 1.0,
    ) -> "ClassMeans":
        """Add a batch.

        Args:
          features: one row per sample.
          labels: classes, or pseudo-labels; a sample of a class outside the range
            takes no part.
          keep: what earlier batches still count, in [0, 1]: 1 gives exact means,
            less gives exponential ones. A class that the batch lacks keeps its mean.
        """
        classes, old = len(self.counts), jnp.asarray(keep, self.sums.dtype)
        ones = jnp.ones(len(labels), self.counts.dtype)
        return ClassMeans(
            old * self.sums + jax.ops.segment_sum(features, labels, classes),
            old * self.counts + jax.ops.segment_sum(ones, labels, classes),
        )

    @property
    def means(self) -> Float[Array, "c d"]:
        """Mean of each class; 0 for a class that was never seen."""
        return self.sums / jnp.where(self.counts > 0, self.counts, 1)[:, None]


def class_means(
    features: Float[Array, "n d"], labels: Int[Array, " n"], classes: int
) -> Float[Array, "c d"]:
    """Mean feature of each class; 0 for a class without samples.

    Args:
      features: one row per sample.
      labels: classes in [0, classes).
      classes: how many there are.
    """
    empty = ClassMeans.empty(classes, features.shape[1])
    return empty.observe(features, labels).means
