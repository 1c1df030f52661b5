"""The files of a model folder besides its weights: config, tokenizer, and so on."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mda_jax.pipeline.errors import MergeError


WEIGHTS = frozenset(
    ".bin .ckpt .gguf .h5 .mlmodel .msgpack .npz .onnx .ot .pkl .pt .pth .safetensors"
    " .tflite".split()
)


def sidecars(folder: Path) -> list[Path]:
    """What a merged model takes over from its donor, relative to the folder.

    Everything but weights and their indices, hidden files and the README; a
    subfolder that holds weights (another format, a training checkpoint) is left out.

    Args:
      folder: a model folder.

    Returns:
      Relative paths, sorted.

    Raises:
      MergeError: a sentence-transformers module keeps weights in a subfolder; these
        would have to be merged too.
    """
    _check_modules(folder)
    return sorted(p.relative_to(folder) for p in _kept(folder))


def copy_sidecars(folder: Path, to: Path, dtype: str | None) -> list[Path]:
    """Copy the sidecars verbatim; only config.json may change, in its dtype.

    Args:
      folder: the donor.
      to: an existing folder.
      dtype: element type to note in config.json; None keeps the file as it is.

    Returns:
      The relative paths copied.
    """
    files = sidecars(folder)
    for file in files:
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file, to / file)
    if dtype is not None and (to / "config.json").is_file():
        _note_dtype(to / "config.json", dtype)
    return files


def _kept(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "README.md":
            continue
        if path.is_dir():
            if not any(_is_weights(p) for p in path.rglob("*")):
                yield from _kept(path)
        elif not _is_weights(path):
            yield path


def _is_weights(path: Path) -> bool:
    return path.suffix in WEIGHTS or path.name.endswith(".index.json")


def _check_modules(folder: Path) -> None:
    listing = folder / "modules.json"
    if not listing.is_file():
        return
    for module in _json(listing):
        if module["path"] and any(
            map(_is_weights, (folder / module["path"]).glob("*"))
        ):
            raise MergeError(
                f"{folder}: the module {module['path']!r} has weights of its own;"
                " merging these is not supported yet. Merge its folder separately."
            )


def _note_dtype(config: Path, dtype: str) -> None:
    content = _json(config)
    if _renamed(content, dtype):
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        config.write_text(text, encoding="utf-8")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise MergeError(f"{path}: no valid JSON ({e}). Copy the file again.") from e


def _renamed(content: dict, dtype: str) -> bool:
    """Set every dtype note, also of nested configurations; whether one changed."""
    changed = False
    for key, value in content.items():
        if isinstance(value, dict):
            changed |= _renamed(value, dtype)
        elif key in ("dtype", "torch_dtype") and value not in (None, dtype):
            content[key], changed = dtype, True
    return changed
