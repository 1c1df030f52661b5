"""Leaves that share memory, as tied embeddings do."""

from typing import Any

import jax
import jax.numpy as jnp


def memory(x: Any) -> frozenset[tuple[int, int]]:
    """Where an array lies: pairs of a device and an address.

    None for what is traced, and for NumPy's.
    """
    if not isinstance(x, jax.Array) or isinstance(x, jax.core.Tracer):
        return frozenset()
    places = ((s.device.id, s.data) for s in x.addressable_shards)
    return frozenset((device, data.unsafe_buffer_pointer()) for device, data in places)


def unaliased(tree: Any) -> Any:
    """The same tree, no two of whose leaves share memory.

    JAX refuses to donate an array twice, as it would where a tree with tied embeddings
    is an argument of a jitted function with `donate_argnums`.

    Args:
      tree: any pytree; give several that are donated together as a tuple. Leaves that
        are traced stay as they are: this is for the caller of a jitted function.

    Returns:
      The tree, with copies of those leaves that lie where an earlier one does.

    >>> x = jnp.ones(2)
    >>> tied = {"embedding": x, "head": x}
    >>> jax.jit(lambda tree: tree, donate_argnums=0)(unaliased(tied))["head"]
    Array([1., 1.], dtype=float32)
    """
    taken: set[tuple[int, int]] = set()

    def own(leaf: Any) -> Any:
        places = memory(leaf)
        if places & taken:
            return jnp.copy(leaf)
        taken.update(places)
        return leaf

    return jax.tree.map(own, tree)
