"""Writing checkpoints: a new folder, complete or absent."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mda_jax.converters.checkpoint import Checkpoint, Source, read_json
from mda_jax.converters.companions import (
    CONFIG,
    HISTORY,
    NOTES,
    STASH,
    companions,
    configs,
    copy_files,
)
from mda_jax.converters.errors import ConfigError
from mda_jax.converters.formats import (
    FormatError,
    open_tensors,
    outline,
    write_file,
    write_folder,
    write_msgpack,
    write_npz,
    write_orbax,
    write_outlined,
    write_pytorch,
)
from mda_jax.converters.formats.folder import (
    check_absent,
    check_apart,
    check_replaceable,
    new_folder,
)
from mda_jax.converters.translate import Arrays, Joined, Named, flat


WRITERS: dict[str, Callable[[Path, Named], None]] = {
    "safetensors": write_folder,
    "msgpack": lambda folder, tensors: write_msgpack(
        folder / "flax_model.msgpack", tensors
    ),
    "npz": lambda folder, tensors: write_npz(folder / "model.npz", tensors),
    "orbax": lambda folder, tensors: write_orbax(folder / "params", tensors),
    "pytorch": lambda folder, tensors: write_pytorch(
        folder / "pytorch_model.bin", tensors
    ),
}
# Of the files that are of a format.
SUFFIXES: dict[str, frozenset[str]] = {
    "safetensors": frozenset({".safetensors"}),
    "msgpack": frozenset({".msgpack"}),
    "npz": frozenset({".npz"}),
    "orbax": frozenset(),
    "pytorch": frozenset({".bin", ".pt", ".pth", ".ckpt"}),
}


def save(
    model: Checkpoint | Mapping[Any, Any],
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    force: bool = False,
) -> None:
    """Write a checkpoint, or a tree of arrays, into a new folder.

    Beside the weights go the companions of a checkpoint (`config.json`, the tokenizer;
    of one that was given as a file, its config alone) and, if it was converted, the
    folder `conversion`: with it `to_torch` can write the files that it came from again.
    A checkpoint that is back in the dialect of its source, with the shapes and types it
    had, is written in the files of the source, byte for byte where the numbers are the
    same, unless another format is asked for.

    Args:
      model: a checkpoint; or nested dicts of arrays, of which the weights alone are
        written.
      path: the folder, in one that exists.
      format: one of `WRITERS`; that of the source's files, or else safetensors, unless
        stated.
      force: replace a folder of that name.

    Raises:
      ConfigError: the folder exists, or the format is not known.
      ValueError: an element type that the format cannot store.
    """
    if format is not None and format not in WRITERS:
        listed = ", ".join(WRITERS)
        raise ConfigError(f"{format!r} is no format to write; there are {listed}.")
    write = WRITERS[format or "safetensors"]
    folder = Path(path)
    (check_replaceable if force else check_absent)(folder)
    if not isinstance(model, Checkpoint):
        with new_folder(folder, force=force, resume=False) as new:
            write(new, Arrays(flat(model)))
        return
    if model.path is not None:
        check_apart(folder, [model.path])
    files = _outlines(model.source)
    with new_folder(folder, force=force, resume=False) as new:
        if model.naming != model.source.naming:
            write(new, model.tensors)
            _write_notes(new, model, files)
        elif _are_of(files, format) and _specs(model.tensors) == _specs_of_files(files):
            _write_files(new, model.tensors, files)
        else:
            write(new, model.tensors)
        _write_companions(new, model)


def _outlines(source: Source) -> dict[str, Any]:
    """Of every file of the source: its outline and its tensors; of an index, its text.

    Nothing if a file is no plain checkpoint, so that it cannot be written again.
    """
    if source.outlines or not source.files:
        return dict(source.outlines)
    found: dict[str, Any] = {}
    try:
        for file in source.files:
            tensors = open_tensors(file)
            found[file.name] = {"outline": outline(file), "specs": _specs(tensors)}
    except FormatError:
        return {}
    for index in source.files[0].parent.glob("*.index.json"):
        named = read_json(index).get("weight_map")
        if isinstance(named, dict) and set(map(str, named.values())) == set(found):
            found[index.name] = {"text": index.read_text(encoding="utf-8")}
    return found


def _are_of(files: Mapping[str, Any], format: str | None) -> bool:
    """Whether there are files, all of a format; of any if none is stated."""
    held = [Path(name).suffix for name, file in files.items() if "specs" in file]
    return bool(held) and (format is None or set(held) <= SUFFIXES[format])


def _specs(tensors: Named) -> dict[str, list[Any]]:
    """Type and shape by name, as JSON has them."""
    specs = {name: tensors.spec(name) for name in tensors}
    return {n: [s.dtype.name, list(s.shape)] for n, s in sorted(specs.items())}


def _specs_of_files(files: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Type and shape of the tensors of all files."""
    held = [file["specs"] for file in files.values() if "specs" in file]
    return dict(sorted((name, spec) for specs in held for name, spec in specs.items()))


def _write_files(folder: Path, tensors: Named, files: Mapping[str, Any]) -> None:
    for name, file in files.items():
        if "text" in file:
            (folder / name).write_text(file["text"], encoding="utf-8")
        else:
            part = Joined([(tensors, {n: n for n in file["specs"]})])
            write_outlined(folder / name, file["outline"], part)


def _write_notes(folder: Path, model: Checkpoint, files: Mapping[str, Any]) -> None:
    source = model.source
    notes = {
        "version": 1,
        "naming": model.naming._asdict(),
        "source": {
            "naming": source.naming._asdict(),
            "sizes": dict(source.sizes),
            "outlines": files,
        },
    }
    (folder / HISTORY).mkdir()
    text = json.dumps(notes, indent=1) + "\n"
    (folder / NOTES).write_text(text, encoding="utf-8")
    if len(source.stash):
        write_file(folder / STASH, source.stash)


def _write_companions(folder: Path, model: Checkpoint) -> None:
    if model.path is not None and model.path.is_dir():
        copy_files(model.path, companions(model.path), folder)
    elif model.path is not None:
        copy_files(model.path.parent, configs(model.path.parent), folder)
    elif model.config:
        text = json.dumps(model.config, indent=2) + "\n"
        (folder / CONFIG).write_text(text, encoding="utf-8")
