"""Which files make up a checkpoint."""

import json
from pathlib import Path
from typing import NoReturn

from mda_jax.converters.formats.errors import FormatError
from mda_jax.converters.formats.header import Header, read_header


SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def shards(path: Path) -> dict[Path, Header]:
    """The safetensors files of a checkpoint, with their headers.

    Args:
      path: a file, an index, or a folder.

    Returns:
      File -> its header; no tensor is in two files.

    Raises:
      FormatError: there is none, or the index and the shards disagree.
    """
    if path.is_file():
        is_index = path.name.endswith(".index.json")
        return _indexed(path) if is_index else {path: read_header(path)}
    if not path.is_dir():
        advice = "Check the path; a hub model must be downloaded first."
        raise FormatError(path, "nothing", "a folder or a file", advice)
    if (path / SINGLE).is_file():
        return shards(path / SINGLE)
    if (path / INDEX).is_file():
        return shards(path / INDEX)
    return _only(path)


def _only(folder: Path) -> dict[Path, Header]:
    """The one index, or else the one file, of a folder without the standard names."""
    for pattern in ("*.safetensors.index.json", "*.safetensors"):
        found = sorted(folder.glob(pattern))
        if len(found) == 1:
            return shards(found[0])
        if found:
            raise FormatError(
                folder,
                f"{len(found)} files {pattern}: {', '.join(f.name for f in found[:4])}",
                f"one of them, or {SINGLE}, or {INDEX}",
                "Give the path of the file that you mean.",
            )
    pickles = sorted(f.name for p in _PICKLES for f in folder.glob(p))
    if pickles:
        raise FormatError(
            folder,
            f"pickled weights only ({', '.join(pickles[:4])})",
            "*.safetensors",
            "Convert once with transformers: model.save_pretrained(folder).",
        )
    advice = f"Give a folder that holds {SINGLE}, or shards with {INDEX}."
    raise FormatError(folder, "no weights", "*.safetensors", advice)


def _indexed(index: Path) -> dict[Path, Header]:
    """The shards of an index, each checked to hold exactly what the index says."""
    places: dict[str, set[str]] = {}
    for name, file in _weight_map(index).items():
        places.setdefault(file, set()).add(name)
    headers = {}
    for file, wanted in sorted(places.items()):
        shard = index.parent / file
        if not shard.is_file():
            _fail(index, f"no shard {file}", f"it there, with {len(wanted)} tensors")
        headers[shard] = read_header(shard)
        held = headers[shard].entries.keys()
        if missing := sorted(wanted - held):
            _fail(shard, f"no tensor {missing[0]!r}", f"it, as {index.name} says")
        if extra := sorted(held - wanted):
            _fail(shard, f"tensor {extra[0]!r}", f"it in the map of {index.name}")
    return headers


def _weight_map(index: Path) -> dict[str, str]:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        _fail(index, f"no valid JSON ({ascii(str(e))[:80]})", "a JSON object")
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        _fail(index, "no weight_map", "one that places each tensor in a shard")
    for name, file in weight_map.items():
        plain = isinstance(file, str) and file and Path(file).name == file
        if not plain or "\0" in file:
            _fail(index, f"{ascii(file)[:80]} for {name!r}", "the name of a shard")
    return weight_map


def _fail(path: Path, found: str, expected: str) -> NoReturn:
    raise FormatError(path, found, expected, "Download or export the folder again.")
