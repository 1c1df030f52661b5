"""New files that are there whole or not at all."""

import os
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
    _check_absent(path)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    with part.open("x+b") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _check_absent(path)
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _check_absent(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists; give another path, or remove it first.")
