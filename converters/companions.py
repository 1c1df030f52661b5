"""The files that lie beside the weights of a model: config, tokenizer, and so on."""

import shutil
from collections.abc import Iterator
from pathlib import Path


WEIGHTS = frozenset(
    ".bin .ckpt .gguf .h5 .mlmodel .msgpack .npz .onnx .ot .pkl .pt .pth .safetensors"
    " .tflite".split()
)


def companions(folder: Path) -> list[Path]:
    """All files of a model folder but weights, their indices, and hidden files.

    A subfolder that holds weights (another format, a training checkpoint) is left out.

    Args:
      folder: a model folder.

    Returns:
      Paths relative to it, sorted.
    """
    return sorted(path.relative_to(folder) for path in _kept(folder))


def copy_files(folder: Path, files: list[Path], to: Path) -> list[Path]:
    """Copy some files of a folder to another; their relative paths."""
    for file in files:
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / file, to / file)
    return files


def is_weights(path: Path) -> bool:
    """Whether a file, by its name, has weights or says where they are."""
    return path.suffix in WEIGHTS or path.name.endswith(".index.json")


def _kept(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            if not any(is_weights(p) for p in path.rglob("*")):
                yield from _kept(path)
        elif not is_weights(path):
            yield path
