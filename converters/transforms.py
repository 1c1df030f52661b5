"""Rearrangements between the tensors of a checkpoint and the leaves of Flax.

Permutation, reshape, split and stack are all there is: no rule computes, so that every
bit survives the way there and back. An operation takes arrays to arrays, states the
shapes it gives, and knows its inverse.
"""

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Protocol, runtime_checkable


Shape = tuple[int, ...]
Arrays = Sequence[Any]
Size = int | str  # a string names a number of the model, such as its heads


@runtime_checkable
class Op(Protocol):
    """One step of a rearrangement."""

    def shapes(self, given: Sequence[Shape]) -> list[Shape]:
        """Shapes of the results; ValueError where they cannot be."""

    def __call__(self, arrays: Arrays) -> list[Any]:
        """The results."""

    def inverse(self) -> "Op":
        """The way back."""


@dataclass(frozen=True)
class Permute:
    """Order the axes anew, of each array."""

    axes: tuple[int, ...]

    def shapes(self, given: Sequence[Shape]) -> list[Shape]:
        """Of the same axes."""
        _require(
            all(len(s) == len(self.axes) for s in given),
            f"{len(self.axes)} axes",
            given,
        )
        return [tuple(s[a] for a in self.axes) for s in given]

    def __call__(self, arrays: Arrays) -> list[Any]:
        """Views."""
        return [x.transpose(self.axes) for x in arrays]

    def inverse(self) -> "Permute":
        """The axes as they were."""
        return Permute(tuple(map(self.axes.index, range(len(self.axes)))))


@dataclass(frozen=True)
class Fold:
    """Make consecutive axes one, of each array.

    Attributes:
      axis: the first of them, counted from the front.
      sizes: of each; at most one is -1, for any size.
    """

    axis: int
    sizes: tuple[Size, ...]

    def shapes(self, given: Sequence[Shape]) -> list[Shape]:
        """With the product of the sizes in their place."""
        return [self._shape(s) for s in given]

    def _shape(self, given: Shape) -> Shape:
        end = self.axis + len(self.sizes)
        folded = given[self.axis : end]
        fits = len(folded) == len(self.sizes) and all(
            want in (-1, have)
            for want, have in zip(self.sizes, folded, strict=True)
            if isinstance(want, int)
        )
        _require(fits, f"axes of {self.sizes} from axis {self.axis} on", [given])
        return *given[: self.axis], math.prod(folded), *given[end:]

    def __call__(self, arrays: Arrays) -> list[Any]:
        """Reshaped; a view where the order of the entries allows."""
        return [x.reshape(self._shape(x.shape)) for x in arrays]

    def inverse(self) -> "Unfold":
        """One axis to several."""
        return Unfold(self.axis, self.sizes)


@dataclass(frozen=True)
class Unfold:
    """The way back of `Fold`."""

    axis: int
    sizes: tuple[Size, ...]

    def shapes(self, given: Sequence[Shape]) -> list[Shape]:
        """With the sizes in the place of their product."""
        return [self._shape(s) for s in given]

    def _shape(self, given: Shape) -> Shape:
        _require(len(given) > self.axis, f"more than {self.axis} axes", [given])
        sizes = [_number(size) for size in self.sizes]
        known = math.prod(size for size in sizes if size != -1)
        rest, over = divmod(given[self.axis], known)
        full = [rest if size == -1 else size for size in sizes]
        fits = not over and math.prod(full) == given[self.axis]
        _require(fits, f"{self.sizes} in axis {self.axis}", [given])
        return *given[: self.axis], *full, *given[self.axis + 1 :]

    def __call__(self, arrays: Arrays) -> list[Any]:
        """Reshaped; a view where the order of the entries allows."""
        return [x.reshape(self._shape(x.shape)) for x in arrays]

    def inverse(self) -> "Fold":
        """Several axes to one."""
        return Fold(self.axis, self.sizes)


@dataclass(frozen=True)
class Split:
    """Cut one array into several along its last axis, in the given ratios."""

    ratios: tuple[Size, ...]

    def shapes(self, given: Sequence[Shape]) -> list[Shape]:
        """As many as ratios."""
        (shape,) = given
        ratios = [_number(r) for r in self.ratios]
        unit, over = divmod(shape[-1], sum(ratios)) if shape else (0, 1)
        _require(not over, f"a last axis in the ratios {self.ratios}", given)
        return [(*shape[:-1], unit * r) for r in ratios]

    def __call__(self, arrays: Arrays) -> list[Any]:
        """Views."""
        (x,) = arrays
        parts, start = [], 0
        for shape in self.shapes([x.shape]):
            parts.append(x[..., start : start + shape[-1]])
            start += shape[-1]
        return parts

    def inverse(self) -> "Join":
        """Put them together."""
        return Join(self.ratios)


@dataclass(frozen=True)
class Join:
    """The way back of `Split`."""

    ratios: tuple[Size, ...]

    def shapes(self, given: Sequence[Shape]) -> list[Shape]:
        """One, whose split gives these."""
        joined = (*given[0][:-1], sum(s[-1] for s in given if s))
        _require(
            all(given) and Split(self.ratios).shapes([joined]) == list(given),
            f"shapes that differ in the last axis alone, in the ratios {self.ratios}",
            given,
        )
        return [joined]

    def __call__(self, arrays: Arrays) -> list[Any]:
        """One new array."""
        return [_numpy_of(arrays).concatenate(list(arrays), axis=-1)]

    def inverse(self) -> "Split":
        """Cut again."""
        return Split(self.ratios)


@dataclass(frozen=True)
class Stack:
    """Put any number of arrays of one shape on a new first axis."""

    def shapes(self, given: Sequence[Shape]) -> list[Shape]:
        """One, with the number of arrays in front."""
        _require(len(set(given)) == 1, "arrays of one shape", given)
        return [(len(given), *given[0])]

    def __call__(self, arrays: Arrays) -> list[Any]:
        """One new array."""
        return [_numpy_of(arrays).stack(list(arrays))]

    def inverse(self) -> "Unstack":
        """Take them apart."""
        return Unstack()


@dataclass(frozen=True)
class Unstack:
    """The way back of `Stack`."""

    def shapes(self, given: Sequence[Shape]) -> list[Shape]:
        """As many as the first axis is long."""
        (shape,) = given
        _require(bool(shape) and shape[0] > 0, "a first axis of layers", given)
        return [shape[1:]] * shape[0]

    def __call__(self, arrays: Arrays) -> list[Any]:
        """Views."""
        (x,) = arrays
        return [x[i] for i in range(x.shape[0])]

    def inverse(self) -> "Stack":
        """Put them together."""
        return Stack()


@dataclass(frozen=True)
class Transform:
    """Operations one after the other."""

    ops: tuple[Op, ...] = ()

    def __or__(self, other: "Transform") -> "Transform":
        return Transform(self.ops + other.ops)

    def shapes(self, given: Sequence[Shape]) -> list[Shape]:
        """Shapes of the results; ValueError where they cannot be."""
        return reduce(lambda shapes, op: op.shapes(shapes), self.ops, list(given))

    def __call__(self, arrays: Arrays) -> list[Any]:
        """The results; views where possible."""
        return reduce(lambda xs, op: op(xs), self.ops, list(arrays))

    def inverse(self) -> "Transform":
        """The way back."""
        return Transform(tuple(op.inverse() for op in reversed(self.ops)))

    @property
    def stacks(self) -> bool:
        """Whether the result is a stack of what the arrays become one by one."""
        return bool(self.ops) and isinstance(self.ops[-1], Stack)

    @property
    def unknown(self) -> set[str]:
        """The sizes that are named still."""
        of = [
            op.ratios if isinstance(op, Split | Join) else op.sizes
            for op in self.ops
            if isinstance(op, Split | Join | Fold | Unfold)
        ]
        return {size for sizes in of for size in sizes if isinstance(size, str)}

    def learnt(self, given: Sequence[Shape]) -> dict[str, int]:
        """The named sizes that shapes which fit tell."""
        found: dict[str, int] = {}
        shapes = list(given)
        for op in self.ops:
            if isinstance(op, Fold):
                folded = zip(op.sizes, shapes[0][op.axis :], strict=False)
                found |= {name: n for name, n in folded if isinstance(name, str)}
            shapes = op.shapes(shapes)
        return found

    def bind(self, sizes: Mapping[str, int]) -> "Transform":
        """The same with the named sizes that are known put in."""
        return Transform(tuple(_bound(op, sizes) for op in self.ops))


SAME = Transform()
UNSTACK, STACK = Transform((Unstack(),)), Transform((Stack(),))


def permute(*axes: int) -> Transform:
    """Order the axes anew.

    >>> permute(2, 3, 1, 0).shapes([(8, 3, 5, 7)])  # a convolution of PyTorch
    [(5, 7, 3, 8)]
    """
    return Transform((Permute(axes),))


def fold(axis: int, *sizes: Size) -> Transform:
    """Make consecutive axes one.

    >>> heads_in = fold(1, 4, -1)
    >>> heads_in.shapes([(32, 4, 8)]), heads_in.inverse().shapes([(32, 32)])
    ([(32, 32)], [(32, 4, 8)])
    """
    return Transform((Fold(axis, sizes),))


def split(*ratios: Size) -> Transform:
    """Cut along the last axis.

    >>> split(4, 1, 1).shapes([(32, 48)])  # 4 heads of queries, one of keys and values
    [(32, 32), (32, 8), (32, 8)]
    """
    return Transform((Split(ratios),))


def _bound(op: Op, sizes: Mapping[str, int]) -> Op:
    if isinstance(op, Fold | Unfold):
        return replace(op, sizes=_known(op.sizes, sizes))
    if isinstance(op, Split | Join):
        return replace(op, ratios=_known(op.ratios, sizes))
    return op


def _known(named: tuple[Size, ...], sizes: Mapping[str, int]) -> tuple[Size, ...]:
    return tuple(sizes.get(s, s) if isinstance(s, str) else s for s in named)


def _number(size: Size) -> int:
    if isinstance(size, str):
        raise ValueError(f"the number of {size} is not known; config.json states it")
    return size


def _require(holds: bool, expected: str, given: Sequence[Shape]) -> None:
    if not holds:
        shapes = ", ".join(map(str, given[:4]))
        raise ValueError(f"found shape {shapes}; expected {expected}")


def _numpy_of(arrays: Arrays) -> Any:
    """`numpy` or `jax.numpy`, whichever the arrays are of."""
    of: Callable[[Any], Any] = operator.methodcaller("__array_namespace__")
    spaces = {of(x) for x in arrays}
    return spaces.pop() if len(spaces) == 1 else _jax_numpy()


def _jax_numpy() -> Any:
    import jax.numpy as jnp

    return jnp
