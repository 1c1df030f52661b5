"""The files that lie beside the weights of a model: config, tokenizer, and so on."""

import shutil
from collections.abc import Iterator
from pathlib import Path


CONFIG = "config.json"
OPEN_CLIP = "open_clip_config.json"  # of OpenCLIP, which has no config.json
HISTORY = "conversion"  # the folder of what a converted checkpoint was
NOTES, STASH = f"{HISTORY}/notes.json", f"{HISTORY}/stash.safetensors"

WEIGHTS = frozenset(
    ".bin .ckpt .gguf .h5 .mlmodel .msgpack .npz .onnx .ot .pkl .pt .pth .safetensors"
    " .tflite".split()
)
_OF_ORBAX = frozenset(
    "_METADATA _CHECKPOINT_METADATA _sharding manifest.ocdbt array_metadatas".split()
)


def configs(folder: Path) -> list[Path]:
    """The files that tell the architecture of a model, relative to their folder."""
    return [Path(name) for name in (CONFIG, OPEN_CLIP) if (folder / name).is_file()]


def companions(folder: Path) -> list[Path]:
    """All files of a model folder but weights, their indices, and hidden files.

    A subfolder that holds weights (another format, a training checkpoint) is left out,
    and so are links to folders, which may lead anywhere, and what a conversion left;
    see `history`.

    Args:
      folder: a model folder.

    Returns:
      Paths relative to it, sorted.
    """
    files = (path.relative_to(folder) for path in _kept(folder))
    return sorted(file for file in files if file.parts[0] != HISTORY)


def history(folder: Path) -> list[Path]:
    """The files that a conversion left beside the weights, relative to their folder."""
    return [Path(name) for name in (NOTES, STASH) if (folder / name).is_file()]


def copy_files(folder: Path, files: list[Path], to: Path) -> list[Path]:
    """Copy some files of a folder to another; their relative paths."""
    for file in files:
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file, to / file)
    return files


def is_weights(path: Path) -> bool:
    """Whether a file, by its name, has weights or says where they are."""
    listed = path.name.endswith(".index.json") or path.name in _OF_ORBAX
    return listed or path.suffix in WEIGHTS


def _kept(folder: Path) -> Iterator[Path]:
    is_of_orbax = (folder / "_METADATA").is_file()
    for path in folder.iterdir():
        if path.name.startswith(".") or (path.is_symlink() and path.is_dir()):
            continue
        if path.is_dir():
            if not is_of_orbax and not any(is_weights(p) for p in path.rglob("*")):
                yield from _kept(path)
        elif not is_weights(path):
            yield path
