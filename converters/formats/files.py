"""New files and folders that are there whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside its place, and move it there once it is complete.

    Args:
      path: where there is no file yet.

    Yields:
      The file, open for writing and reading; its name ends like that of `path`. After
      an error it is removed.

    Raises:
      FileExistsError: there is a file already.
    """
    part = _beside(path)
    with part.open("x+b") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _move(part, path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside its place, and move it there once it is complete.

    Args:
      path: where there is no folder yet.

    Yields:
      The folder. After an error it is removed.

    Raises:
      FileExistsError: there is a folder already.
    """
    part = _beside(path)
    part.mkdir()
    try:
        yield part
        _move(part, path)
    except BaseException:
        shutil.rmtree(part)
        raise


def _beside(path: Path) -> Path:
    _check_absent(path)
    return path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")


def _move(part: Path, path: Path) -> None:
    _check_absent(path)
    part.rename(path)


def _check_absent(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists; give another path, or remove it first.")
