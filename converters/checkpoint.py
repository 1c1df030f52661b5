"""A checkpoint: tensors, their naming, and what it takes to write it again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mda_jax.converters.companions import CONFIG, NOTES, OPEN_CLIP, STASH
from mda_jax.converters.formats import FormatError, open_tensors
from mda_jax.converters.naming import Naming, noted, recognise
from mda_jax.converters.notes import read_notes
from mda_jax.converters.rules import Table
from mda_jax.converters.translate import Arrays, Joined, Named, nested


class Source(NamedTuple):
    """What a checkpoint was before it was converted.

    Attributes:
      naming: of its tensors.
      sizes: numbers of the model that its layout has and other layouts lack.
      stash: tensors without a counterpart in Flax, by their stored names.
      files: where it lies, if it was just read.
      outlines: of its files by name, if it was read long ago.
    """

    naming: Naming
    sizes: Mapping[str, int] = {}
    stash: Named = Arrays({})
    files: Sequence[Path] = ()
    outlines: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a known family of models, read when they are used.

    Attributes:
      tensors: name -> array, with `.spec(name)`.
      naming: family, dialect, prefix and ties of the tensors as they are here.
      source: what it was before it was converted; itself, if it was not.
      config: content of `config.json`; empty if there is none.
      path: the file or the folder it came from.
    """

    tensors: Named
    naming: Naming
    source: Source
    config: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def family(self) -> str:
        """Of the model: `bert`, `llama` and so on."""
        return self.naming.family

    @property
    def dialect(self) -> str:
        """Of the names and layouts: `hub`, `timm`, `nnx` and so on."""
        return self.naming.dialect

    @property
    def ties(self) -> Mapping[str, str]:
        """Name of a tensor that is another one again -> the name of that."""
        stored = self.naming.ties.values()
        return {name: first for first, *others in stored for name in others}

    def tree(self) -> dict[str, Any]:
        """The tensors as nested dicts, split at slashes."""
        return nested({name: self.tensors[name] for name in self.tensors})


def load(path: str | Path) -> Checkpoint:
    """Open a checkpoint of PyTorch or Flax; reads headers and the config only.

    Args:
      path: what `open_tensors` opens.

    Returns:
      The checkpoint, its family and dialect recognised from its tensors.

    Raises:
      FormatError: there is no checkpoint, or it is damaged.
      ConversionError: the tensors are those of no family; the message names one.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    tensors = open_tensors(path)
    config = read_json(folder / CONFIG) or read_json(folder / OPEN_CLIP)
    notes = read_notes(folder / NOTES)
    if notes:
        naming, source = noted(notes["naming"]), _source(folder, notes["source"])
    else:
        naming = recognise(tensors, config)
        source = Source(naming, stash=_buffers(tensors, naming), files=tensors.files)
    return Checkpoint(tensors, naming, source, config, path)


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of keys; nothing if there is no such file.

    Raises:
      FormatError: it is damaged, or holds something else.
    """
    if not path.is_file():
        return {}
    advice = "Copy the file again."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        found = f"no valid JSON ({ascii(str(e))[:80]})"
        raise FormatError(path, found, "a JSON object", advice) from e
    if not isinstance(content, dict):
        raise FormatError(path, ascii(content)[:80], "a JSON object", advice)
    return content


def _source(folder: Path, notes: Mapping[str, Any]) -> Source:
    """What a Flax checkpoint was, from what was written beside it."""
    stash = folder / STASH
    return Source(
        noted(notes["naming"]),
        notes["sizes"],
        open_tensors(stash) if stash.is_file() else Arrays({}),
        outlines=notes["outlines"],
    )


def _buffers(tensors: Named, naming: Naming) -> Named:
    """The tensors that have no counterpart in Flax."""
    table = Table(naming.rules({}))
    names = (n for n in tensors if table.is_left(n.removeprefix(naming.wrapper)))
    return Joined([(tensors, {name: name for name in names})])
