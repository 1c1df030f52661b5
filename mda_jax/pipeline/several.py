"""Several merges in one file: those with a name serve the others as models."""

import os
import shutil
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from mda_jax.converters.formats.folder import (
    check_absent,
    check_replaceable,
    is_interruption,
)
from mda_jax.pipeline.document import Document, read_documents
from mda_jax.pipeline.errors import ConfigError
from mda_jax.pipeline.report import Report
from mda_jax.pipeline.run import run


def run_all(
    config: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    intermediate: str | os.PathLike[str] | None = None,
    **options: Any,
) -> list[Report]:
    """Merge as every document of a YAML file says, `---` standing between them.

    Args:
      config: the file. All documents but one have a `name`, by which the others may
        call their result a model.
      out: the folder to create, of the document without a name.
      intermediate: a folder for the other results; default: `OUT.intermediate`, which
        is removed in the end, but not after an interruption.
      **options: as of `run`, for every merge.

    Returns:
      A report of every merge, in the order they were made.

    Raises:
      ConfigError: not exactly one document lacks a name, a name stands twice, or merges
        need each other; or as `run`.
      FormatError: as `run`.
      MergeError: as `run`.
    """
    documents = read_documents(Path(config))
    if len(documents) == 1:
        return [run(documents[0], out, **options)]
    named = _by_name(documents)
    folder = Path(intermediate or f"{os.fspath(out)}.intermediate")
    places = {name: folder / name for name in named if name is not None}
    kept, resume = intermediate is not None, options.get("resume", False)
    if not resume:
        (check_replaceable if options.get("force") else check_absent)(Path(out))
    if not kept:
        _check_left_by_merge(folder, places)
        if not resume:
            shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    try:
        reports = [
            run(
                _placed_document(named[name], places),
                out if name is None else places[name],
                **options,
            )
            for name in _in_order(named)
        ]
    except BaseException as error:
        if is_interruption(error) and any(folder.iterdir()):
            error.add_note(f"{folder} holds named merges; --resume goes on from there.")
        elif not kept:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if not kept:
        shutil.rmtree(folder)
    return reports


def _check_left_by_merge(folder: Path, places: Mapping[str, Path]) -> None:
    """Raise if a folder that is to be removed in the end has anything else in it."""
    ours = {f"{name}{end}" for name in places for end in ("", ".partial")}
    if folder.is_dir() and (others := {path.name for path in folder.iterdir()} - ours):
        problem = f"has {min(others)!r}, which no merge left there; move it away"
        raise ConfigError(f"{folder}: {problem}.")


def _placed_document(document: Document, places: Mapping[str, Path]) -> Document:
    return document._replace(data=_placed(document.data, places))


def _by_name(documents: list[Document]) -> dict[str | None, Document]:
    named: dict[str | None, Document] = {}
    for document in documents:
        name = document.data.get("name") if isinstance(document.data, dict) else None
        if name in named:
            which = "two lack a name" if name is None else f"two are called {name!r}"
            raise document.error((), f"{len(documents)} merges, of which {which}.")
        if name is not None and (not isinstance(name, str) or Path(name).name != name):
            raise document.error(("name",), f"{name!r} is no name of a folder.")
        named[name] = document
    if None not in named:
        raise documents[-1].error(
            (), "the last merge has no name: it gives the output."
        )
    return named


def _in_order(named: dict[str | None, Document]) -> list[str | None]:
    """Every merge after those it needs; the one without a name last."""
    needs: dict[str | None, set[str | None]] = {
        name: {each for each in _models(document.data) if each in named}
        for name, document in named.items()
    }
    needs[None] |= named.keys() - {None}
    try:
        return list(TopologicalSorter(needs).static_order())
    except CycleError as e:
        cycle = " -> ".join(map(str, e.args[1]))
        raise ConfigError(
            f"{named[None].source}: merges need each other: {cycle}."
        ) from e


def _models(node: Any) -> Iterator[str]:
    """Every text that may name a model."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key != "name":
                yield from _models(value)
    elif isinstance(node, list):
        for each in node:
            yield from _models(each)
    elif isinstance(node, str):
        yield node


def _placed(node: Any, places: Mapping[str, Path]) -> Any:
    """The content with the folders of other merges for their names."""
    if isinstance(node, dict):
        return {k: v if k == "name" else _placed(v, places) for k, v in node.items()}
    if isinstance(node, list):
        return [_placed(each, places) for each in node]
    return str(places[node]) if isinstance(node, str) and node in places else node
