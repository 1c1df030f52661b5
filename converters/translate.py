"""The tensors of a checkpoint under other names and in another layout, lazily."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.formats import Spec
from mda_jax.converters.formats.arrays import nested as tree_of_names
from mda_jax.converters.formats.placement import InParts
from mda_jax.converters.rules import Group, Rule, Table


Index = tuple[slice, ...]


@runtime_checkable
class Named(Protocol):
    """Tensors by name, whose shapes and types are known without their data."""

    def __getitem__(self, name: str) -> Any:
        """The array."""

    def __iter__(self) -> Iterator[str]:
        """The names."""

    def __len__(self) -> int:
        """How many there are."""

    def spec(self, name: str) -> Spec:
        """Shape and element type."""


class Arrays(Mapping[str, Any]):
    """Arrays in memory by name."""

    def __init__(self, arrays: Mapping[str, Any]):
        self._arrays = arrays

    def __getitem__(self, name: str) -> Any:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def spec(self, name: str) -> Spec:
        """Shape and element type."""
        array = self._arrays[name]
        return Spec(tuple(np.shape(array)), np.dtype(array.dtype))


class Joined(Mapping[str, Any]):
    """Tensors of several checkpoints, under names of one's choice."""

    def __init__(self, parts: Iterable[tuple[Named, Mapping[str, str]]]):
        """Choose.

        Args:
          parts: the tensors of a checkpoint, and new name -> name in it.
        """
        self._where = {
            new: (tensors, old)
            for tensors, names in parts
            for new, old in names.items()
        }

    def __getitem__(self, name: str) -> Any:
        tensors, old = self._where[name]
        return tensors[old]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def spec(self, name: str) -> Spec:
        """Shape and element type."""
        tensors, old = self._where[name]
        return tensors.spec(old)

    def part(self, name: str, index: Index) -> Any:
        """Part of one tensor, of which little else is read."""
        tensors, old = self._where[name]
        if isinstance(tensors, InParts):
            return tensors.part(old, index)
        return tensors[old][index]


class Translated(Mapping[str, Any]):
    """The tensors that rules make of others; made when they are asked for.

    A tensor that is only permuted is a view of its source. One that is put together of
    several is made anew each time, so that no more than one group of tensors is ever
    held. Leaves of NumPy give NumPy, those of JAX give JAX.

    Attributes:
      left: tensors that have no counterpart.
      sizes: what the shapes tell about the sizes that the rules name.
    """

    def __init__(self, tensors: Named, rules: Iterable[Rule]):
        """Match the rules.

        Args:
          tensors: names, specs and arrays of the source.
          rules: from its names to those wanted.

        Raises:
          ConversionError: as `Table.groups`; or two rules give one tensor.
        """
        self._tensors = tensors
        self._where: dict[str, _Where] = {}
        self.left: list[str] = []
        self.sizes: dict[str, int] = {}
        shapes = {name: tensors.spec(name).shape for name in tensors}
        for group in Table(rules).groups(shapes):
            if not group.targets:
                self.left += group.sources
            sources = [shapes[name] for name in group.sources]
            self.sizes |= group.rule.transform.learnt(sources)
            for place, (name, shape) in enumerate(group.targets.items()):
                if name in self._where:
                    other = self._where[name].group.sources[0]
                    raise ConversionError(
                        f"{name!r} comes from both {other!r} and {group.sources[0]!r}."
                    )
                spec = Spec(shape, self._dtype(group))
                self._where[name] = _Where(group, place, spec)

    def __getitem__(self, name: str) -> Any:
        group, place, _ = self._where[name]
        return group.rule.transform([self._tensors[s] for s in group.sources])[place]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)

    def spec(self, name: str) -> Spec:
        """Shape and element type, without touching any data."""
        return self._where[name].spec

    def part(self, name: str, index: Index) -> Any:
        """Part of one tensor; of a stack, the tensors that make up the part are read.

        Args:
          name: of the tensor.
          index: a slice for each axis, or for the first ones.
        """
        group, _, spec = self._where[name]
        if not index or not group.rule.transform.stacks:
            return self[name][index]
        rows = group.sources[index[0]]
        if not rows:
            return np.empty((0, *spec.shape[1:]), spec.dtype)[(slice(None), *index[1:])]
        [stack] = group.rule.transform([self._tensors[s] for s in rows])
        return stack[(slice(None), *index[1:])]

    def sources(self, name: str) -> tuple[str, ...]:
        """The tensors that one is made of."""
        return self._where[name].group.sources

    def _dtype(self, group: Group) -> np.dtype:
        dtypes = {name: self._tensors.spec(name).dtype for name in group.sources}
        if len(set(dtypes.values())) > 1:
            listed = ", ".join(f"{name!r} {dtype}" for name, dtype in dtypes.items())
            raise ConversionError(
                f"tensors that become one have several element types: {listed}."
                " Cast them first."
            )
        return next(iter(dtypes.values()))


class _Where(NamedTuple):
    group: Group
    place: int
    spec: Spec


def nested(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of dicts from names with slashes.

    Raises:
      ValueError: a name is the beginning of another.

    >>> nested({"a/b": 1, "a/c": 2})
    {'a': {'b': 1, 'c': 2}}
    """
    return jax.tree.map(tensors.__getitem__, tree_of_names(tensors))


def flat(tree: Mapping[Any, Any], before: str = "") -> dict[str, Any]:
    """Names with slashes from a tree of mappings, whatever the type of their keys.

    >>> flat({"layers": {0: {"bias": 1}}})
    {'layers/0/bias': 1}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{before}{key}"
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{name}/") if inner else {name: value}
    return found
