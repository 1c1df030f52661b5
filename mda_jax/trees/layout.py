"""Layouts: how the axes of a leaf make up the canonical view that stages see."""

import math
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from mda_jax._types import Role


AnyArray = TypeVar("AnyArray", jax.Array, np.ndarray)
Axes = tuple[int, ...]


class Layout(NamedTuple):
    """Which axes of a leaf are what; every axis appears in one of the three groups.

    Attributes:
      role: what the leaf is to a method.
      stack: axes along which the leaf holds several weights (scanned layers, experts).
      out: axes that make up the first canonical axis, in order.
      into: axes that make up the second canonical axis, in order; `()` for vectors.
    """

    role: Role
    stack: Axes = ()
    out: Axes = ()
    into: Axes = ()


def view_shape(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """`(stack, *canonical)` of a leaf: the canonical part is `(out, in)`, `(n,)`, `()`.

    >>> view_shape((3, 3, 8, 16), Layout(Role.CONV, out=(3,), into=(2, 0, 1)))
    (1, 16, 72)
    """
    groups = [layout.out, layout.into]
    canonical = [math.prod(shape[a] for a in axes) for axes in groups if axes]
    return (math.prod(shape[a] for a in layout.stack), *canonical)


def view(x: AnyArray, layout: Layout) -> AnyArray:
    """The canonical view of a leaf, or of an array that ends in the leaf's axes.

    Args:
      x: the leaf, or `[*lead, *leaf]`.
      layout: the leaf's layout.

    Returns:
      `[stack, *lead, *canonical]`; `stack` is 1 where nothing is stacked.
    """
    lead: int = _lead(x, layout)
    axes: Axes = _shift((*layout.out, *layout.into), lead)
    shape = view_shape(x.shape[lead:], layout)
    moved = x.transpose((*_shift(layout.stack, lead), *range(lead), *axes))
    return moved.reshape(shape[0], *x.shape[:lead], *shape[1:])


def unview(y: AnyArray, layout: Layout, shape: tuple[int, ...]) -> AnyArray:
    """The inverse of `view` for a leaf of this shape: `[stack, *canonical] -> leaf`."""
    order = (*layout.stack, *layout.out, *layout.into)
    back = tuple(int(i) for i in np.argsort(order))
    return y.reshape([shape[a] for a in order]).transpose(back)


def is_canonical(shape: tuple[int, ...], layout: Layout) -> bool:
    """Whether the leaf already is its canonical view, without a stack axis."""
    axes = (*layout.out, *layout.into)
    return (
        not layout.stack
        and axes == tuple(range(len(shape)))
        and view_shape(shape, layout)[1:] == shape
    )


def _lead(x: AnyArray, layout: Layout) -> int:
    return x.ndim - len(layout.stack) - len(layout.out) - len(layout.into)


def _shift(axes: Axes, by: int) -> Axes:
    return tuple(a + by for a in axes)
