"""EMR-Merging: elect, mask, rescale."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from mda_jax import primitives as p
from mda_jax._types import Deltas
from mda_jax.combine import stage
from mda_jax.compression._unified import Unified, deltas_of, merged_delta, packed


Row = Float[Array, " 1 *d"]


def emr(
    base: Any,
    experts: Sequence[Any],
    *,
    sign: Callable[[Deltas], Row] = p.sign_of_sum,
    size: Callable[[Array], Array] = jnp.sum,
) -> Unified:
    """Elect one delta of the largest entries; mask and rescale it for each expert.

    Args:
      base: parameters.
      experts: k trees like `base`.
      sign: `deltas [k, *d] -> [1, *d]`, the elected signs; where they are 0 the delta
        is 0. `primitives.positive_sign_of_sum` is the authors' code.
      size: of the magnitudes of one leaf; the sizes of the leaves are added. `jnp.mean`
        is the authors' code.

    Returns:
      The delta is the largest magnitude among the experts that carry the elected sign,
      with that sign. An expert's mask is where it carries the sign itself; its scale
      brings the masked delta to the size of its own (1 where the mask is empty).

    Raises:
      ValueError: there is no expert, or one has other names or shapes than the base.

    Paper:
      Huang et al., EMR-Merging: Tuning-Free High-Performance Model Merging, 2024,
      https://arxiv.org/abs/2405.17461, section 3.
      Differs: the authors' code, and fusion-bench, elect -1 where signs cancel, and
      add up the means of the leaves, so that small leaves weigh as much as large ones.
    """
    deltas = deltas_of("emr", base, experts)
    vector = merged_delta(deltas, stage(_largest, sign=Partial(sign)))
    masks = {
        name: p.agreeing(d, sign=jnp.sign(vector[name])[None])
        for name, d in deltas.items()
    }
    served = {name: jnp.where(masks[name], vector[name][None], 0) for name in masks}
    wanted, got = _sizes(deltas, size), _sizes(served, size)
    scales = jnp.where(got > 0, wanted / jnp.where(got > 0, got, 1), 1)
    return Unified(base, vector, {n: packed(mask) for n, mask in masks.items()}, scales)


def _largest(d: Deltas, *, sign: Callable[[Deltas], Row]) -> Row:
    return p.agreeing_largest(d, sign=sign(d))


def _sizes(rows: dict[str, Deltas], size: Callable) -> Float[Array, " k"]:
    each = (jax.vmap(size)(jnp.abs(d)).astype(jnp.float32) for d in rows.values())
    return jnp.sum(jnp.stack(list(each)), axis=0)
