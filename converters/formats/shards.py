"""Which files make up a checkpoint."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from mda_jax.converters.formats import header, msgpack, npz, orbax, pytorch
from mda_jax.converters.formats.errors import FormatError
from mda_jax.converters.formats.header import Header


class Format(NamedTuple):
    """How the files of one format are called and read."""

    single: str  # the standard name of a checkpoint that is one file
    suffixes: tuple[str, ...]  # of the names of files
    read_header: Callable[[Path], Header]
    header_text: Callable[[Path], bytes]

    @property
    def listing(self) -> str:
        """The standard name of the index of shards."""
        return f"{self.single}.index.json"


SAFETENSORS = Format(
    "model.safetensors",
    (".safetensors",),
    header.read_header,
    header.header_text,
)
PYTORCH = Format(
    "pytorch_model.bin",
    (".bin", ".pt", ".pth", ".ckpt"),
    pytorch.read_header,
    pytorch.header_text,
)
NPZ = Format("model.npz", (".npz",), npz.read_header, npz.header_text)
FLAX = Format(
    "flax_model.msgpack",
    (".msgpack",),
    msgpack.read_header,
    msgpack.header_text,
)
ARCHIVES = (PYTORCH, NPZ)  # with checksums
FORMATS = (SAFETENSORS, PYTORCH, NPZ, FLAX)  # the first that a folder has is read
SINGLE, INDEX = SAFETENSORS.single, SAFETENSORS.listing

_OF_TRAINING = ("training_args.*", "optimizer.*", "scheduler.*", "scaler.*", "rng_*")


def format_of(file: Path) -> Format:
    """The format of a file, by its name; safetensors unless it says another."""
    return next((f for f in FORMATS if file.suffix in f.suffixes), SAFETENSORS)


def header_text(file: Path) -> bytes:
    """The bytes of a file that decide names, types, shapes and places of its tensors.

    Raises:
      FormatError: it is damaged.
    """
    if file.name == orbax.METADATA:
        return orbax.header_text(file)
    return format_of(file).header_text(file)


def shards(path: Path) -> dict[Path, Header]:
    """The files of a checkpoint, with their headers.

    Args:
      path: a file, an index, or a folder.

    Returns:
      File -> its header; no tensor is in two files.

    Raises:
      FormatError: there is none, or the index and the shards disagree.
    """
    if path.is_file():
        is_index = path.name.endswith(".index.json")
        return _indexed(path) if is_index else {path: format_of(path).read_header(path)}
    if not path.is_dir():
        advice = "Check the path; a hub model must be downloaded first."
        raise FormatError(path, "nothing", "a folder or a file", advice)
    if (found := located(path)) is not None:
        return shards(found)
    kinds = [f"*{suffix}" for kind in FORMATS for suffix in kind.suffixes]
    advice = f"Give a folder that holds {SINGLE}, or shards with {INDEX}."
    raise FormatError(path, "no weights", f"one of {', '.join(kinds)}", advice)


def located(folder: Path) -> Path | None:
    """The file of a folder that holds or lists the weights, if there is one.

    Raises:
      FormatError: there are several of one format.
    """
    for kind in FORMATS:
        for name in (kind.single, kind.listing):
            if (folder / name).is_file():
                return folder / name
        if (only := _only(folder, kind)) is not None:
            return only
    return None


def _only(folder: Path, kind: Format) -> Path | None:
    """The one index, or else the one file, of a folder without the standard names."""
    files_of = [f"*{suffix}" for suffix in kind.suffixes]
    for names in ([f"{name}.index.json" for name in files_of], files_of):
        files = {file for name in names for file in folder.glob(name)}
        found = sorted(f for f in files if not any(map(f.match, _OF_TRAINING)))
        if len(found) > 1:
            raise FormatError(
                folder,
                f"{len(found)} files {' '.join(names)}:"
                f" {', '.join(f.name for f in found[:4])}",
                f"one of them, or {kind.single}, or {kind.listing}",
                "Give the path of the file that you mean.",
            )
        if found:
            return found[0]
    return None


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
        headers[shard] = format_of(shard).read_header(shard)
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
