"""A model as a part of the output sees it: some of its tensors, under new names."""

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np

from mda_jax.converters.formats import Spec, Tensors
from mda_jax.pipeline.bits import in_rows
from mda_jax.pipeline.embeddings import Table


class View(Mapping[str, np.ndarray]):
    """Tensors of a checkpoint by their names in the output."""

    def __init__(
        self,
        model: Tensors,
        stored: Mapping[str, str],
        tables: Mapping[str, Table] = MappingProxyType({}),
    ):
        """Choose what is seen.

        Args:
          model: the checkpoint.
          stored: name in the output -> name in the checkpoint.
          tables: name in the output -> the table of tokens that takes its place.
        """
        self.model, self._stored, self._tables = model, stored, tables

    @property
    def path(self) -> Path:
        """Of the checkpoint."""
        return self.model.path

    def stored(self, name: str) -> str:
        """The tensor's name in the checkpoint."""
        return self._stored.get(name, name)

    def only(self, names: Container[str]) -> "View":
        """The same model, some of its tensors."""
        stored = {name: at for name, at in self._stored.items() if name in names}
        return View(self.model, stored, self._tables)

    def spec(self, name: str) -> Spec:
        """Shape and element type of a tensor, without touching its data."""
        if name in self._tables:
            return self._tables[name].spec
        return self.model.spec(self._stored[name])

    def on_disk(self, name: str) -> Spec:
        """Its shape, and the element type in the file whatever is handed out."""
        dtype = Tensors.spec(self.model, self._stored[name]).dtype
        return self.spec(name)._replace(dtype=dtype)

    def entries(self, name: str, part: slice) -> np.ndarray:
        """Consecutive entries of a tensor laid out flat."""
        if name in self._tables:
            return self._tables[name].entries(part)
        return self.model.entries(self._stored[name], part)

    def fill(self, name: str, first: int, out: np.ndarray) -> None:
        """Write as many entries as an array takes, from one on, cast to its type."""
        if name in self._tables:
            out[...] = self._tables[name].entries(slice(first, first + out.size))
        else:
            self.model.fill(self._stored[name], first, out)

    def part(self, name: str, index: tuple[slice, ...]) -> np.ndarray:
        """Part of a tensor, of which little else is read or computed.

        Args:
          name: of the tensor.
          index: a slice for each axis, or for the first ones.
        """
        if name in self._tables:
            return in_rows(self._tables[name].entries, self.spec(name).shape, index)
        return self.model.part(self._stored[name], index)

    def raw(self, name: str) -> np.ndarray:
        """A tensor as the checkpoint has it."""
        return self.model[self._stored[name]]

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._tables:
            return self._tables[name].read()
        return self.raw(name)

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)
