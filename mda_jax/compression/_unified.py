"""What a compression stores, and how an expert is read from it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, UInt8

from mda_jax import _check, engine, trees
from mda_jax._types import Deltas, Number, Stage, WholeModel


Named: TypeAlias = dict[str, Float[Array, "..."]]  # of the leaves that are merged


class Unified(NamedTuple):
    """A base, one delta for all experts, and which of its entries each expert takes.

    Attributes:
      base: parameters.
      vector: the delta, by name of the leaf; leaves that are no floats have none.
      masks: by name, 8 entries to the byte: `[k, ceil(n / 8)]`.
      scales: multiplier of the delta, one per expert.
    """

    base: Any
    vector: Named
    masks: dict[str, UInt8[Array, "k bytes"]]
    scales: Float32[Array, " k"]

    def expert(self, t: Number) -> Any:
        """Parameters of expert `t`, counted from 0; a tree like the base."""
        leaves = trees.named(self.base)
        served = [self._leaf(name, leaf, t) for name, leaf in leaves.items()]
        return jax.tree.unflatten(jax.tree.structure(self.base), served)

    def _leaf(self, name: str, leaf: Any, t: Number) -> Any:
        if name not in self.vector:
            return leaf
        vector, bits = self.vector[name], self.masks[name][t]
        mask = jnp.unpackbits(bits, count=vector.size).reshape(vector.shape)
        change = self.scales[t].astype(vector.dtype) * vector
        change = jnp.where(mask == 1, change, 0)
        return (jnp.asarray(leaf, vector.dtype) + change).astype(leaf.dtype)


def deltas_of(who: str, base: Any, experts: Sequence[Any]) -> Named:
    """`[k, *shape]` for each leaf that is merged, in float32, or float64 as the base.

    Raises:
      ValueError: there is no expert, or one has other names or shapes than the base.
    """
    leaves = trees.named(base)
    _check.arrays(who, "base", leaves)
    _check.some_experts(who, len(experts))
    named = [trees.named(tree) for tree in experts]
    for i, tree in enumerate(named):
        _check.same_leaves(who, f"experts[{i}]", leaves, tree)
    merged = {name: leaf for name, leaf in leaves.items() if _check.is_merged(leaf)}
    return {name: _delta(x, [t[name] for t in named]) for name, x in merged.items()}


def merged_delta(deltas: Named, method: Stage | WholeModel) -> Named:
    """What a method adds to the base."""
    nothing = {name: jnp.zeros_like(d[0]) for name, d in deltas.items()}
    merged: Named = engine.merge(nothing, deltas, method)
    return merged


def packed(masks: Bool[Array, " k *d"]) -> UInt8[Array, "k bytes"]:
    """Bits of each row."""
    return jnp.packbits(masks.reshape(len(masks), -1), axis=1)


def _delta(base: Any, experts: Sequence[Any]) -> Deltas:
    dtype = jnp.float64 if base.dtype == jnp.float64 else jnp.float32
    rows = jnp.stack([jnp.asarray(expert, dtype) for expert in experts])
    return rows - jnp.asarray(base, dtype)[None]
