"""The files of a model folder besides its weights: config, tokenizer, and so on."""

import json
import operator
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mda_jax.converters.companions import (
    companions,
    copy_files,
    history,
    is_weights,
)
from mda_jax.pipeline.errors import MergeError
from mda_jax.pipeline.manifest import CARD, CONFIG, MANIFEST


_ABOUT = frozenset({CARD, MANIFEST, CONFIG})
_TOKENIZER = re.compile(
    r"token|^vocab\.|^merges\.txt$|spiece|sentencepiece|^tekken|chat_template"
)
_NOTES = ("config.json", "generation_config.json")
_SPECIAL_ID = re.compile(r"_token_ids?$")
_LAYERS = frozenset({"num_hidden_layers", "n_layer", "num_layers", "n_layers"})


def sidecars(folder: Path) -> list[Path]:
    """What a merged model takes over from its donor, relative to the folder.

    Everything but weights and their indices, hidden files and what a model says about
    itself (its card, and of a merged one the manifest and the configuration); a
    subfolder that holds weights (another format, a training checkpoint) is left out.
    What a conversion left goes along: the merged model converts back with it.

    Args:
      folder: a model folder.

    Returns:
      Relative paths, sorted.

    Raises:
      MergeError: a sentence-transformers module keeps weights in a subfolder; these
        would have to be merged too.
    """
    _check_modules(folder)
    kept = [path for path in companions(folder) if path.name not in _ABOUT]
    return sorted(kept + history(folder))


def tokenizer_files(folder: Path) -> list[Path]:
    """Those of the sidecars that are a tokenizer's."""
    return [f for f in sidecars(folder) if _TOKENIZER.search(f.name)]


def vocabulary_size(folder: Path) -> int | None:
    """The number of tokens that a model's config.json notes, if it does."""
    content = optional_json(folder / "config.json")
    with holding(folder / "config.json", "a whole number as 'vocab_size'"):
        inner = content.get("text_config") or {}
        size = content.get("vocab_size") or inner.get("vocab_size")
        return None if size is None else operator.index(size)


def copy_sidecars(
    folder: Path,
    to: Path,
    dtype: str | None,
    layers: int | None,
    tokens: int | None,
    *,
    tokenizer: bool,
) -> list[Path]:
    """Copy the sidecars verbatim; only config.json may change.

    Args:
      folder: the donor.
      to: an existing folder.
      dtype: element type to note in config.json; None keeps what it says.
      layers: number of layers to note there; None keeps what it says.
      tokens: size of the vocabulary to note there; None keeps what it says.
      tokenizer: copy the tokenizer's files too.

    Returns:
      The relative paths copied.
    """
    files = [f for f in sidecars(folder) if tokenizer or not _TOKENIZER.search(f.name)]
    copy_files(folder, files, to)
    if (to / "config.json").is_file():
        _update(to / "config.json", dtype, layers, tokens)
    return files


def take_special_ids(folder: Path, to: Path) -> None:
    """Note the ids of special tokens that another model notes.

    Args:
      folder: the model whose vocabulary the output has.
      to: the folder of the output; what it notes under the same keys is replaced.
    """
    known = {
        key: value
        for name in _NOTES
        for key, value in optional_json(folder / name).items()
        if _SPECIAL_ID.search(key) and value is not None
    }
    for file in (to / name for name in _NOTES if (to / name).is_file()):
        content = read_json(file)
        changed = content | {k: v for k, v in known.items() if k in content}
        if changed != content:
            write_json(file, changed)


def _check_modules(folder: Path) -> None:
    listing = folder / "modules.json"
    if not listing.is_file():
        return
    with holding(listing, "a list of objects with a 'path'"):
        names = [str(module["path"]) for module in read_json(listing)]
    for name in filter(None, names):
        if any(map(is_weights, (folder / name).glob("*"))):
            raise MergeError(
                f"{folder}: the module {name!r} has weights of its own;"
                " merging these is not supported yet. Merge its folder separately."
            )


def _update(
    config: Path, dtype: str | None, layers: int | None, tokens: int | None
) -> None:
    content = optional_json(config)
    changed = dtype is not None and _renamed(content, dtype)
    for key in _LAYERS & content.keys() if layers is not None else ():
        changed |= content[key] != layers
        content[key] = layers
    with holding(config, "an object as 'text_config'"):
        changed |= tokens is not None and _resized(content, tokens)
    if changed:
        write_json(config, content)


def _resized(content: dict[str, Any], tokens: int) -> bool:
    """Set the size of the vocabulary wherever it is noted; whether one changed."""
    inner = content.get("text_config") or {}
    held = [c for c in (content, inner) if c.get("vocab_size")]
    notes = [c for c in held if c["vocab_size"] != tokens]
    for each in notes:
        each["vocab_size"] = tokens
    return bool(notes)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file as transformers would."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    path.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
      MergeError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise MergeError(f"{path}: no valid JSON ({e}). Copy the file again.") from e


@contextmanager
def holding(path: Path, expected: str) -> Iterator[None]:
    """Turn what fails on a file's content into an error that names the file.

    Raises:
      MergeError: what is done inside finds something else there.
    """
    try:
        yield
    except (AttributeError, LookupError, TypeError, ValueError) as e:
        if isinstance(e, MergeError):
            raise
        raise MergeError(f"{path}: expected {expected}. Copy it again.") from e


def optional_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of keys; nothing if there is no such file.

    Raises:
      MergeError: it is damaged, or holds something else.
    """
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        problem = f"found {str(content)[:40]!r}, expected an object with keys"
        raise MergeError(f"{path}: {problem}. Copy the file again.")
    return content


def _renamed(content: dict, dtype: str) -> bool:
    """Set every dtype note, also of nested configurations; whether one changed."""
    changed = False
    for key, value in content.items():
        if isinstance(value, dict):
            changed |= _renamed(value, dtype)
        elif key in ("dtype", "torch_dtype") and value not in (None, dtype):
            content[key], changed = dtype, True
    return changed
