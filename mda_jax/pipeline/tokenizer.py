"""One vocabulary for models that differ in theirs, and whose rows its tokens have."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mda_jax.converters.companions import copy_files
from mda_jax.pipeline.config import Request, Row, TokenizerOptions
from mda_jax.pipeline.references import Located
from mda_jax.pipeline.sidecars import (
    take_special_ids,
    tokenizer_files,
    vocabulary_size,
)
from mda_jax.pipeline.vocabulary import (
    PLAIN,
    Flags,
    Vocabulary,
    fingerprint,
    read_vocabulary,
    write_tokenizer,
)


Rows = dict[Path, np.ndarray]  # model -> `[rows]` of the output: a row of it, or -1


class Alignment(NamedTuple):
    """The vocabulary of the output, and what its tables are made of.

    Attributes:
      folder: whose tokenizer it is.
      vocabulary: its tokens; None if models and output share one tokenizer.
      own: the row that a model has for each token, unless another is to replace it.
      lent: the row that a model lends to those that have none; their mean, if several.
      real: `[rows]`, which ids are tokens; the others pad the table.
      warnings: what deserves a second look, one line each.
    """

    folder: Path
    vocabulary: Vocabulary | None
    own: Rows
    lent: Rows
    real: np.ndarray
    warnings: list[str]


def write_aligned(alignment: Alignment, donor: Path, to: Path) -> list[Path]:
    """Write the tokenizer of the output.

    Args:
      alignment: its vocabulary.
      donor: the model whose config.json the output has.
      to: the folder of the output.

    Returns:
      The names of the tokenizer's files.

    Raises:
      MergeError: the files of the tokenizer cannot hold the vocabulary.
    """
    if alignment.folder != donor:
        take_special_ids(alignment.folder, to)
    if alignment.vocabulary is None:
        return copy_files(alignment.folder, tokenizer_files(alignment.folder), to)
    return write_tokenizer(alignment.vocabulary, to)


class _Model(NamedTuple):
    """The tokens of one model."""

    vocabulary: Vocabulary
    rows: int  # of its tables
    ids: dict[str, int]  # of the tokens that its tables have rows for


def align(request: Request, sizes: Mapping[Path, int]) -> Alignment:
    """Settle the vocabulary of the output.

    Where a model lacks a token, its row comes from the base; if that lacks it too, it
    is the mean over the models that have it, and zero if none has.

    Args:
      request: a merge that asks for a tokenizer.
      sizes: model -> rows of its token tables.

    Returns:
      The alignment.

    Raises:
      ConfigError: a row is to come from where it is not, or no model has a table.
      MergeError: a tokenizer cannot be read.
    """
    wanted = request.config.tokenizer_options or TokenizerOptions()
    if not sizes:
        problem = "no model has a table of tokens; leave out the tokenizer's keys."
        raise request.document.error(("tokenizer",), problem)
    located = {path: request.models[path] for path in sizes}
    first = request.base or next(iter(located.values()))
    donor = request.named.get(wanted.source, first)
    if _is_shared(wanted, donor, located.values(), sizes):
        return Alignment(donor.folder, None, {}, {}, np.ones(0, bool), [])
    models = {m.path: _read(m, sizes) for m in (first, *located.values())}
    vocabulary, least = _of_output(wanted, donor, models)
    rows = _padded(vocabulary.size, least, wanted.pad_to_multiple_of)
    own = {m: _rows(vocabulary.ids, models[m].ids, rows) for m in sizes}
    lent = _lent(own, request.base and request.base.path)
    unknown = _unknown(vocabulary.ids, lent) - wanted.tokens.keys()
    for token, entry in wanted.tokens.items():
        if entry.source is not None:
            model, row = _chosen(request, token, entry.source, models)
            _lend_only(lent, vocabulary.ids[token], model, row)
    for ids in own.values():
        ids[[vocabulary.ids[t] for t, e in wanted.tokens.items() if e.force]] = -1
    real = np.zeros(rows, bool)
    real[list(vocabulary.ids.values())] = True
    return Alignment(donor.folder, vocabulary, own, lent, real, _doubts(unknown))


def _is_shared(
    wanted: TokenizerOptions,
    donor: Located,
    models: Iterable[Located],
    sizes: Mapping[Path, int],
) -> bool:
    """Whether all models have the output's tokenizer, and tables of one length."""
    if wanted.tokens or wanted.pad_to_multiple_of or len(set(sizes.values())) > 1:
        return False
    folders = {model.folder for model in models} - {donor.folder}
    mine = fingerprint(donor.folder)
    return all(fingerprint(folder) == mine for folder in folders)


def _read(model: Located, sizes: Mapping[Path, int]) -> _Model:
    found = read_vocabulary(model.folder)
    rows = sizes.get(model.path) or vocabulary_size(model.folder) or found.size
    return _Model(found, rows, {t: i for t, i in found.ids.items() if i < rows})


def _of_output(
    wanted: TokenizerOptions, donor: Located, models: Mapping[Path, _Model]
) -> tuple[Vocabulary, int]:
    """The tokens of the output, and how many rows its tables have at least."""
    model = models.get(donor.path) or _read(donor, {})
    vocabulary = model.vocabulary
    if wanted.source in ("union", "base"):
        vocabulary = vocabulary.below(model.rows)
    if wanted.source == "union":
        vocabulary = vocabulary.extended(_every(models.values()))
    new = {token: _flags(token, models.values()) for token in wanted.tokens}
    return vocabulary.extended(new), model.rows


def _every(models: Iterable[_Model]) -> dict[str, Flags]:
    """The tokens of all models: pieces, model by model, and then the added ones."""
    pieces: dict[str, Flags] = {}
    added: dict[str, Flags] = {}
    for vocabulary, _, ids in models:
        for token in sorted(ids, key=ids.__getitem__):
            pieces.setdefault(token, PLAIN)
        for token, flags in vocabulary.added.items():
            if token in ids:
                added.setdefault(token, flags)
    return {t: f for t, f in pieces.items() if t not in added} | added


def _flags(token: str, models: Iterable[_Model]) -> Flags:
    """How a token is found in text: as in the first model that has added it."""
    held = (model.vocabulary.added.get(token) for model in models)
    return next(filter(None, held), PLAIN)


def _padded(size: int, least: int, multiple: int | None) -> int:
    """Rows for so many tokens: as many as the tokenizer's model has, unless told.

    >>> _padded(10, 16, None), _padded(10, 16, 4), _padded(10, 16, 1)
    (16, 12, 10)
    """
    return max(size, least) if multiple is None else -(-size // multiple) * multiple


def _rows(ids: Mapping[str, int], held: Mapping[str, int], rows: int) -> np.ndarray:
    """For each id of the output the row that a model has; -1 where it has none."""
    found = np.full(rows, -1)
    for token, place in ids.items():
        found[place] = held.get(token, -1)
    return found


def _lent(own: Rows, base: Path | None) -> Rows:
    """What each model lends: all that it has, but nothing that the base has too."""
    lent = {model: ids.copy() for model, ids in own.items()}
    for model, ids in lent.items():
        if base in own and model != base:
            ids[own[base] >= 0] = -1
    return lent


def _unknown(ids: Mapping[str, int], lent: Rows) -> set[str]:
    """The tokens that no model has."""
    known = np.any([rows >= 0 for rows in lent.values()], axis=0)
    return {token for token, place in ids.items() if not known[place]}


def _chosen(
    request: Request, token: str, source: Row, models: Mapping[Path, _Model]
) -> tuple[Path | None, int]:
    """The model and its row that a token is to have; no model, for zeros."""
    if source.model is None:
        return None, -1
    steps = ("tokenizer", "tokens", token, "source")
    path = request.named[source.model].path
    if path not in request.models:
        problem = "is none of the merged models; list it, or take the row elsewhere."
        raise request.document.error(steps, f"{source.model!r} {problem}")
    _, rows, ids = models[path]
    if source.token_id is not None:
        row = source.token_id
        if row >= rows:
            problem = f"has {rows} rows of tokens, from 0; got token_id {row}."
            raise request.document.error(steps, f"{source.model!r} {problem}")
        return path, row
    name = token if source.token is None else source.token
    if name not in ids:
        problem = f"has no token {name!r}; give a token that it has, or kind: zero."
        raise request.document.error(steps, f"{source.model!r} {problem}")
    return path, ids[name]


def _lend_only(lent: Rows, place: int, model: Path | None, row: int) -> None:
    """Make one model the only one to lend a row for an id; no model, none."""
    for each, ids in lent.items():
        ids[place] = row if each == model else -1


def _doubts(unknown: set[str]) -> list[str]:
    if not unknown:
        return []
    return [
        f"{len(unknown)} tokens are in no model, {min(unknown)!r} first; their rows are"
        " zero until they are trained."
    ]
