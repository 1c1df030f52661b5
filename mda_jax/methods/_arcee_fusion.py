"""Arcee Fusion."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mda_jax import _check, primitives as p
from mda_jax._types import Deltas, Side, Stage
from mda_jax.combine import sided


EXPERTS = 1


def arcee_fusion() -> Stage:
    """Take an expert's entries where they matter most.

    Args:
      None.

    Returns:
      A stage `[1, *d] -> [1, *d]`: `[k, *d] -> [1, *d]` for exactly one expert. An
      entry matters by its magnitude times the Kullback-Leibler divergence of its row:
      of the softmax over the expert's last axis from that over the base's, each plus
      1e-8. Entries at or above the median plus 1.5 times the distance of the quartiles
      take their delta, all others stay the base's.

    Raises:
      ValueError: in `merge`, if there is not one expert.

    Paper:
      None; the method of mergekit 0.1, https://github.com/arcee-ai/mergekit,
      "Arcee Fusion".
      Differs: quantiles are those of all entries, `sorted[int(q (n - 1))]`; mergekit
      draws a million of them where there are more. The divergence is accurate where
      the rows are nearly alike; mergekit's loses all digits there, and with them the
      choice of entries. The result has the base's dtype; mergekit's is float32.
    """
    return sided(important)


def important(d: Deltas, side: Side) -> Float[Array, " 1 *d"]:
    """The delta where it is important, else 0."""
    _check.experts("arcee_fusion", EXPERTS, len(d))
    base = side.base.astype(d.dtype)[None]
    importance = jax.lax.stop_gradient(jnp.abs(d) * _divergence(base + d, base))
    low, median, high = (
        p.kth_smallest(importance, int(q * (d.size - 1))) for q in (0.25, 0.5, 0.75)
    )
    return jnp.where(importance >= median + 1.5 * (high - low), d, 0)


def _divergence(x: Deltas, y: Deltas) -> Float[Array, " 1 *rows"]:
    """Of each row, accurate where the rows are nearly alike.

    Both softmaxes have one sum, so the gap adds nothing but makes every term 0 or more.
    """
    of, to = (jax.nn.softmax(z, axis=-1) + 1e-8 for z in (x, y))
    gap = of - to
    log_ratio = jnp.sign(gap) * jnp.log1p(jnp.abs(gap) / jnp.minimum(of, to))
    return (of * log_ratio - gap).sum(-1, keepdims=True)
