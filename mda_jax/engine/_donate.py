"""Donation: memory is given back when a merge has read it for the last time."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import jax

from mda_jax.trees import memory


def spending(arrays: Any) -> Callable[[Any, Any], None]:
    """A function that deletes arrays after use.

    Args:
      arrays: the tree of all that is read; several may share their memory.

    Returns:
      `(read, result) -> None`: deletes the arrays of `read`, unless others that are yet
      to be read, or a result, lie in the same memory.
    """
    uses = Counter(place for x in jax.tree.leaves(arrays) for place in memory(x))

    def spend(read: Any, result: Any) -> None:
        uses.update(memory(result))
        for x in jax.tree.leaves(read):
            places = memory(x)
            uses.subtract(places)
            if places and not any(uses[place] for place in places):
                x.delete()

    return spend
