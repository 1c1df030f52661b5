"""Token tables with other rows: those of one vocabulary for all, or fewer."""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mda_jax.converters.formats import Spec, Tensors
from mda_jax.pipeline.config import Request
from mda_jax.pipeline.errors import MergeError
from mda_jax.pipeline.naming import INFERRED, Naming
from mda_jax.pipeline.references import Located
from mda_jax.pipeline.sidecars import vocabulary_size
from mda_jax.pipeline.tokenizer import Alignment, align


_BLOCK = 1 << 20  # entries gathered at once

Models = Mapping[Path, Tensors]


class Stored(NamedTuple):
    """A table of tokens as a model holds it."""

    model: Tensors
    name: str

    @property
    def spec(self) -> Spec:
        """Its shape and type."""
        return self.model.spec(self.name)

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """Some of its rows; those between them are read too if they are few."""
        low, high = (int(ids.min()), int(ids.max()) + 1) if len(ids) else (0, 0)
        if high - low > 2 * len(ids):
            return self.model[self.name][ids]
        width = self.spec.size // max(1, self.spec.shape[0])
        near = self.model.entries(self.name, slice(low * width, high * width))
        return near.reshape(-1, *self.spec.shape[1:])[ids - low]


class Table:
    """A table whose rows are taken from others, when and as far as it is read."""

    def __init__(
        self,
        stored: Stored,
        own: np.ndarray,
        lenders: list[tuple[Stored, np.ndarray]],
        real: np.ndarray,
    ):
        """State where the rows come from.

        Args:
          stored: the table that most rows come from; gives their type.
          own: `[rows]`, which row of that; -1 for one that is lent.
          lenders: tables and their rows, -1 for none; the mean where several lend.
          real: `[rows]`, the rows that are tokens; others are the mean of these.
        """
        self.stored = stored
        self.spec = stored.spec._replace(shape=(len(own), *stored.spec.shape[1:]))
        self._own, self._lenders, self._real = own, lenders, real

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        """All that decides which rows there are."""
        return (self._own, *(lent for _, lent in self._lenders), self._real)

    def read(self) -> np.ndarray:
        """The whole table."""
        return self.entries(slice(0, self.spec.size)).reshape(self.spec.shape)

    def entries(self, part: slice) -> np.ndarray:
        """Consecutive entries of the table laid out flat; no other rows are made."""
        start, stop, _ = part.indices(self.spec.size)
        width = self._width
        first, last = start // width, -(-stop // width)
        rows = np.empty((last - first, *self.spec.shape[1:]), self.spec.dtype)
        for ids in self._blocks(np.arange(first, last)):
            real, block = self._real[ids], rows[ids[0] - first :][: len(ids)]
            block[real] = self._tokens(ids[real])
            if not real.all():
                block[~real] = self._padding
        return rows.reshape(-1)[start - first * width : stop - first * width]

    @cached_property
    def _padding(self) -> np.ndarray:
        """The mean of the tokens' rows."""
        ids = np.flatnonzero(self._real)
        total = np.zeros(self.spec.shape[1:])
        for block in self._blocks(ids):
            total += self._tokens(block).astype(np.float64).sum(0)
        return np.asarray(total / max(1, len(ids))).astype(self.spec.dtype)

    @property
    def _width(self) -> int:
        """Entries of a row, at least 1."""
        return max(1, self.spec.size // max(1, len(self._own)))

    def _blocks(self, ids: np.ndarray) -> Iterator[np.ndarray]:
        step = max(1, _BLOCK // self._width)
        return (ids[i : i + step] for i in range(0, len(ids), step))

    def _tokens(self, ids: np.ndarray) -> np.ndarray:
        rows = np.empty((len(ids), *self.spec.shape[1:]), self.spec.dtype)
        own = self._own[ids]
        mine = own >= 0
        rows[mine] = self.stored.rows(own[mine])
        rows[~mine] = self._lent(ids[~mine])
        return rows

    def _lent(self, ids: np.ndarray) -> np.ndarray:
        """The mean of the rows that are lent for some ids; zero where none is."""
        total = np.zeros((len(ids), *self.spec.shape[1:]))
        count = np.zeros(len(ids))
        for stored, lent in self._lenders:
            rows = lent[ids]
            total[rows >= 0] += stored.rows(rows[rows >= 0]).astype(np.float64)
            count += rows >= 0
        count = np.maximum(count, 1).reshape(-1, *[1] * (total.ndim - 1))
        return (total / count).astype(self.spec.dtype)


Tables = Mapping[Path, Mapping[str, Table]]  # model -> tensor -> what it is to be


class Tokens(NamedTuple):
    """What a merge does about vocabularies.

    Attributes:
      tables: the token tables that change.
      alignment: the vocabulary of the output; None if it is not built.
      rows: that the output's tables have; None if as many as before.
      warnings: what deserves a second look, one line each.
    """

    tables: Tables
    alignment: Alignment | None
    rows: int | None
    warnings: list[str]

    @property
    def digest(self) -> str:
        """Of all that decides the tables."""
        found = hashlib.sha256()
        for path, tables in self.tables.items():
            for name, table in tables.items():
                found.update(f"{path} {name}".encode())
                for part in table.parts:
                    found.update(part.tobytes())
        return found.hexdigest()


def tokens(
    request: Request, models: Models, *, truncate: bool, naming: Naming = INFERRED
) -> Tokens:
    """Settle the vocabulary of the output and what becomes of token tables.

    Args:
      request: the merge.
      models: model -> its tensors.
      truncate: cut the tables to the shortest, where no tokenizer is asked for.
      naming: which tensors are tables of tokens, and which are tied.

    Returns:
      The tables; none if nothing is asked for.

    Raises:
      ConfigError: the request for a tokenizer makes no sense.
      MergeError: these models have no tables or tokenizers that fit.
    """
    if request.config.tokenizer_options is not None:
        alignment = align(request, sizes(models, request.models, naming))
        rows = None if alignment.vocabulary is None else len(alignment.real)
        tables = aligned(models, alignment, naming)
        return Tokens(tables, alignment, rows, alignment.warnings)
    if not truncate:
        return Tokens({}, None, None, [])
    counts = sizes(models, request.models, naming)
    tables, least = truncated(models, counts, naming), min(counts.values(), default=0)
    if not tables:
        return Tokens({}, None, None, [])
    warning = (
        f"token tables were cut to {least} rows, as in the model with the fewest; that"
        " is right only if the tokens of these rows are the same in all models."
    )
    return Tokens(tables, None, least, [warning])


def sizes(
    models: Models, located: Mapping[Path, Located], naming: Naming
) -> dict[Path, int]:
    """Count the rows of each model's token tables.

    Args:
      models: model -> its tensors.
      located: model -> where it is.
      naming: which tensors are such tables.

    Returns:
      Model -> rows; no entry if it has no such table.

    Raises:
      MergeError: tables of one model differ, or do not fit its config.json.
    """
    found = {}
    for path, model in models.items():
        rows = {name: _first_axis(model, name) for name in _tables_of(model, naming)}
        size = vocabulary_size(located[path].folder) or max(rows.values(), default=0)
        for name, count in rows.items():
            if count != size:
                raise MergeError(
                    f"{path}: {name!r} seems to be a table of tokens and has {count}"
                    f" rows, not {size} as the vocabulary; such models can be merged"
                    " only with the vocabulary that they have."
                )
        if rows:
            found[path] = size
    return found


def aligned(models: Models, alignment: Alignment, naming: Naming) -> Tables:
    """What the token tables become in another vocabulary.

    Args:
      models: model -> its tensors.
      alignment: the vocabulary, and the row that each model has for its tokens.
      naming: which tensors are tables of tokens, and which are tied.

    Returns:
      The tables that change. Where a model holds one table for two uses and others
      hold both, the one that it lacks is among them: other rows may be lent to it.

    Raises:
      MergeError: a model that is to lend rows has no such table, or a narrower one.
    """
    owners = [models[path] for path in alignment.own]
    names = dict.fromkeys(n for model in owners for n in _tables_of(model, naming))
    held = {
        path: {name: _held(models[path], name, naming) for name in names}
        for path in alignment.own
    }
    return {
        path: {
            name: _aligned(name, path, held, alignment)
            for name, stored in of_model.items()
            if stored and not _is_as_before(name, stored, alignment.own[path])
        }
        for path, of_model in held.items()
    }


def truncated(models: Models, rows: Mapping[Path, int], naming: Naming) -> Tables:
    """What the token tables become if all are cut to the shortest.

    Args:
      models: model -> its tensors.
      rows: model -> rows of its token tables.
      naming: which tensors are such tables.

    Returns:
      The tables that change.
    """
    least = min(rows.values(), default=0)
    kept, real = np.arange(least), np.ones(least, bool)
    return {
        path: {
            name: Table(Stored(models[path], name), kept, [], real)
            for name in _tables_of(models[path], naming)
        }
        for path, count in rows.items()
        if count > least
    }


def _tables_of(model: Tensors, naming: Naming) -> list[str]:
    return [name for name in model if naming.is_token_table(name)]


def _first_axis(model: Tensors, name: str) -> int:
    return next(iter(model.spec(name).shape), 0)


def _held(model: Tensors, name: str, naming: Naming) -> Stored | None:
    """A table of a model, or else the one that is tied to it."""
    names = [name] if name in model else naming.partners(name, model)
    return Stored(model, names[0]) if names else None


def _is_as_before(name: str, stored: Stored, own: np.ndarray) -> bool:
    """Whether a model's table stays what it is."""
    same_rows = len(own) == stored.spec.shape[0] and (own == np.arange(len(own))).all()
    return stored.name == name and bool(same_rows)


def _aligned(
    name: str,
    path: Path,
    held: Mapping[Path, Mapping[str, Stored | None]],
    alignment: Alignment,
) -> Table:
    mine = held[path][name]
    assert mine
    lenders = []
    for other, lent in alignment.lent.items():
        theirs = held[other][name]
        if not (lent >= 0).any():
            continue
        if theirs is None or theirs.spec.shape[1:] != mine.spec.shape[1:]:
            got = "none" if theirs is None else f"rows {theirs.spec.shape[1:]}"
            raise MergeError(
                f"{other}: is to lend rows of {name!r} {mine.spec.shape} to {path}, and"
                f" has {got}. Only models of one architecture can be merged."
            )
        lenders.append((theirs, lent))
    return Table(mine, alignment.own[path], lenders, alignment.real)
