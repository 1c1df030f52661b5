"""YAML with the line of every key, and the wording of configuration errors."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarbool import ScalarBoolean

from mda_jax.pipeline.errors import ConfigError


Steps = tuple[Any, ...]  # keys and indices from the top of the document to a node


class Document(NamedTuple):
    """Plain data, and where it came from."""

    source: str
    data: Any
    lines: dict[Steps, int]  # counted from 1

    def error(self, path: Steps, problem: str) -> ConfigError:
        """An error at a node, or at the nearest enclosing one whose line is known."""
        for length in range(len(path), -1, -1):
            if line := self.lines.get(path[:length]):
                return ConfigError(f"{self.source}:{line}: {problem}")
        return ConfigError(f"{self.source}: {problem}")

    def at(self, *path: str | int) -> Any:
        """The node at a path that exists."""
        node = self.data
        for step in path:
            node = node[step]
        return node


def read_document(path: Path) -> Document:
    """Parse a YAML file that holds one document.

    Args:
      path: the file, UTF-8.

    Returns:
      Its data as plain dictionaries and lists, with line numbers.

    Raises:
      ConfigError: no such file, or no valid YAML; the message has the line.
    """
    documents = read_documents(path)
    if len(documents) != 1:
        raise ConfigError(
            f"{path}: holds {len(documents)} documents, expected one merge here."
        )
    return documents[0]


def read_documents(path: Path) -> list[Document]:
    """Parse a YAML file with `---` between its documents; see `read_document`."""
    try:
        found = list(YAML(typ="rt").load_all(path.read_text(encoding="utf-8")))
        return [_document(str(path), data) for data in found or [None]]
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read ({e.strerror}).") from e
    except MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f":{mark.line + 1}" if mark else ""
        problem = (e.problem or e.context or "").split("\n")[0]
        raise ConfigError(f"{path}{line}: no valid YAML: {problem}.") from e
    except (YAMLError, ValueError, RecursionError) as e:
        reason = (str(e) or type(e).__name__).split("\n")[0]
        raise ConfigError(f"{path}: no valid YAML: {reason}.") from e


def _document(source: str, data: Any) -> Document:
    lines: dict[Steps, int] = {(): 1}
    return Document(source, _plain(data, (), lines), lines)


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint: the known name that looks most like the word, and the others."""
    names = sorted(known)
    if not names:
        return "none is known here"
    (best,) = difflib.get_close_matches(word, names, n=1, cutoff=0)
    return f"did you mean {best!r}? Known: {', '.join(names)}"


def _plain(node: Any, path: Steps, lines: dict[Steps, int]) -> Any:
    """Strip the parser's types; note the line of every key and item."""
    if isinstance(node, dict):
        for key in node:
            lines[(*path, key)] = _line(node, key, path, lines)
        return {k: _plain(v, (*path, k), lines) for k, v in node.items()}
    if isinstance(node, list):
        for i in range(len(node)):
            lines[(*path, i)] = _line(node, i, path, lines)
        return [_plain(v, (*path, i), lines) for i, v in enumerate(node)]
    if isinstance(node, bool | ScalarBoolean):
        return bool(node)
    for kind in (int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _line(node: Any, key: Any, path: Steps, lines: dict[Steps, int]) -> int:
    """Line of one entry; one that came in through a YAML merge has its parent's."""
    position = (node.lc.data or {}).get(key)
    return lines[path] if position is None else position[0] + 1
