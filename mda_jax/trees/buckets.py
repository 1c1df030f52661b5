"""Groups of leaves that one compiled call serves, and what happens to every leaf."""

import zlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mda_jax import _check
from mda_jax._types import Role
from mda_jax.trees.layout import Layout, view_shape


class Bucket(NamedTuple):
    """Leaves whose canonical views agree.

    Attributes:
      names: the leaves, in tree order.
      shape: `(stack, *canonical)` of each.
      stacked: whether the leaves have stack axes.
      role: their role.
      dtype: the base's dtype.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    stacked: bool
    role: Role
    dtype: np.dtype


def buckets(leaves: Mapping[str, Any], plan: Mapping[str, Layout]) -> list[Bucket]:
    """Floating leaves by view shape, role and dtype, in order of first appearance.

    Args:
      leaves: `{name: array or ShapeDtypeStruct}`.
      plan: the layout of each, from `layouts`.
    """
    groups = defaultdict(list)
    for name, leaf in leaves.items():
        if _check.is_merged(leaf):
            layout = plan[name]
            shape = view_shape(leaf.shape, layout)
            mark = (shape, bool(layout.stack), layout.role, np.dtype(leaf.dtype))
            groups[mark].append(name)
    return [Bucket(tuple(names), *mark) for mark, names in groups.items()]


def as_they_lie(leaves: Mapping[str, Any]) -> list[Bucket]:
    """Floating leaves by shape and dtype, of which no axes are joined or change places.

    For what treats every entry by itself: parts of a leaf that are on several devices
    stay there.

    Args:
      leaves: as for `buckets`.
    """
    groups = defaultdict(list)
    for name, leaf in leaves.items():
        if _check.is_merged(leaf):
            groups[(1, *leaf.shape), np.dtype(leaf.dtype)].append(name)
    return [
        Bucket(tuple(names), shape, False, Role.VECTOR, dtype)
        for (shape, dtype), names in groups.items()
    ]


def coverage(
    leaves: Mapping[str, Any], plan: Mapping[str, Layout]
) -> dict[str, tuple[str, ...]]:
    """What happens to every leaf: `{rule: names}`; every name appears once.

    Integers, booleans and leaves without entries are copied.

    >>> import jax
    >>> step = jax.ShapeDtypeStruct((), "int32")
    >>> coverage({"step": step}, {"step": Layout(Role.BUFFER)})
    {'copied from the base': ('step',)}
    """
    rules = defaultdict(list)
    for name, leaf in leaves.items():
        merged = f"merged as {plan[name].role.value}"
        copied = "copied from the base"
        rules[merged if _check.is_merged(leaf) else copied].append(name)
    return {rule: tuple(names) for rule, names in rules.items()}


def seed(name: str) -> np.uint32:
    """A number to fold into a PRNG key: a hash of the name alone.

    `zlib.crc32`, not `hash`: the latter differs from one Python process to the next.
    """
    return np.uint32(zlib.crc32(name.encode()))
