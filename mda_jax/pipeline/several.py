"""Several merges in one file: those with a name serve the others as models."""

import os
import shutil
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

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
        is removed in the end.
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
    kept = intermediate is not None
    folder = Path(intermediate or f"{os.fspath(out)}.intermediate")
    if not kept and folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    places = {name: folder / name for name in named if name is not None}
    reports = []
    for name in _in_order(named):
        document = named[name]
        content = document._replace(data=_placed(document.data, places))
        target = Path(out) if name is None else places[name]
        reports.append(run(content, target, **options))
    if not kept:
        shutil.rmtree(folder)
    return reports


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


def _placed(node: Any, places: dict[str, Path]) -> Any:
    """The content with the folders of other merges for their names."""
    if isinstance(node, dict):
        return {k: v if k == "name" else _placed(v, places) for k, v in node.items()}
    if isinstance(node, list):
        return [_placed(each, places) for each in node]
    return str(places[node]) if isinstance(node, str) and node in places else node
