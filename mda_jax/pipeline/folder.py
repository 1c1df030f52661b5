"""A new folder that appears complete or not at all."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mda_jax.pipeline.errors import ConfigError


JOURNAL = "merge_progress.json"  # there is one once a weight file is finished
_LOCK = ".lock"


def check_absent(out: Path) -> None:
    """Raise unless a new folder can be made here.

    Args:
      out: the folder to be.

    Raises:
      ConfigError: it exists, or its parent does not.
    """
    if os.path.lexists(out):
        raise ConfigError(f"{out}: exists already; give a new folder, or --force.")
    _check_parent(out)


def check_replaceable(out: Path) -> None:
    """Raise unless a folder can be made here, or take the place of another.

    Args:
      out: the folder to be.

    Raises:
      ConfigError: something that is no folder has its name, or its parent is missing.
    """
    if os.path.lexists(out) and (out.is_symlink() or not out.is_dir()):
        raise ConfigError(f"{out}: is no folder; --force replaces folders only.")
    _check_parent(out)


@contextmanager
def new_folder(out: Path, *, force: bool, resume: bool) -> Iterator[Path]:
    """Fill a sibling, `OUT.partial`, which takes the name `out` if nothing went wrong.

    Args:
      out: a folder to be, in one that exists.
      force: replace a folder of that name.
      resume: keep what an earlier attempt left in the sibling.

    Yields:
      The sibling. Its files are to be flushed by who writes them. After an error it is
      removed; after an interruption only if it holds no finished weight file.

    Raises:
      ConfigError: another process fills it, or `out` appeared meanwhile.
    """
    partial = out.with_name(f"{out.name}.partial")
    with ExitStack() as held:
        if partial.exists() and not resume:
            held.enter_context(_locked(partial))
            shutil.rmtree(partial)
            held.close()
        partial.mkdir(exist_ok=True)
        held.enter_context(_locked(partial))
        try:
            yield partial
            (partial / _LOCK).unlink()
            _flush(partial)
            _take_over(partial, out, force=force)
        except BaseException as error:
            interrupted = isinstance(error, OSError) or not isinstance(error, Exception)
            if not (interrupted and (partial / JOURNAL).is_file()):
                shutil.rmtree(partial, ignore_errors=True)
            raise


def _check_parent(out: Path) -> None:
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent}: no such folder; create it first.")


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Hold the folder against other processes."""
    with (partial / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise ConfigError(f"{partial}: another merge is writing there.") from e
        yield


def _take_over(partial: Path, out: Path, *, force: bool) -> None:
    """Give the folder its name; one that had it is removed last."""
    if not (force and out.is_dir()):
        check_absent(out)
        partial.rename(out)
        _flush(out.parent)
        return
    old = out.with_name(f"{out.name}.old-{os.getpid()}")
    out.rename(old)
    partial.rename(out)
    _flush(out.parent)
    shutil.rmtree(old)


def _flush(folder: Path) -> None:
    """Make the entries of a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
