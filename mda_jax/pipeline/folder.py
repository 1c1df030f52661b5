"""A new folder that appears complete or not at all."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mda_jax.pipeline.errors import ConfigError


def check_absent(out: Path) -> None:
    """Raise unless a new folder can be made here.

    Args:
      out: the folder to be.

    Raises:
      ConfigError: it exists, or its parent does not.
    """
    if os.path.lexists(out):
        raise ConfigError(f"{out}: exists already; give a new folder.")
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent}: no such folder; create it first.")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Fill a temporary sibling, which takes the name `out` if nothing went wrong.

    Args:
      out: a folder that does not exist, in one that does.

    Yields:
      The temporary folder. Its files are to be flushed by who writes them.
    """
    temporary = out.with_name(f"{out.name}.tmp-{secrets.token_hex(4)}")
    temporary.mkdir()
    try:
        yield temporary
        _flush(temporary)
        check_absent(out)
        temporary.rename(out)
        _flush(out.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _flush(folder: Path) -> None:
    """Make the entries of a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
