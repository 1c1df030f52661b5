"""A new folder that appears complete or not at all."""

import ctypes
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from mda_jax.converters.errors import ConfigError


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


def check_apart(out: Path, used: Iterable[Path]) -> None:
    """Raise if a folder to be has anything to do with what goes into it.

    Args:
      out: the folder to be.
      used: files and folders that are read for it.

    Raises:
      ConfigError: one of them is, holds or lies in the new folder.
    """
    for path in used:
        for new in (out.resolve(), partial_of(out).resolve()):
            old = path.resolve()
            if new == old or new in old.parents:
                problem = f"would replace {path}, which goes into it"
                raise ConfigError(f"{out}: {problem}; give another folder.")
            if old in new.parents and old.is_dir():
                problem = f"lies in {path}, which goes into it"
                raise ConfigError(f"{out}: {problem}; give a folder outside.")


def is_interruption(error: BaseException) -> bool:
    """Whether an error may go away by itself, so that the work so far is kept."""
    return isinstance(error, OSError) or not isinstance(error, Exception)


@contextmanager
def new_folder(out: Path, *, force: bool, resume: bool) -> Iterator[Path]:
    """Fill a sibling, `OUT.partial`, which takes the name `out` if nothing went wrong.

    A process that is killed leaves the sibling, which the next attempt takes over. A
    folder that is replaced is complete, old or new, at every moment; where the system
    cannot exchange two names at once, it is `OUT.old-PID` between two renamings.

    Args:
      out: a folder to be, in one that exists.
      force: replace a folder of that name.
      resume: keep what an earlier attempt left in the sibling.

    Yields:
      The sibling. Its files are to be flushed by who writes them. After an error it is
      removed; after an interruption only if it holds no finished weight file.

    Raises:
      ConfigError: another process fills it, no earlier attempt left it, or `out`
        appeared meanwhile.
    """
    partial = partial_of(out)
    with _locked(partial):
        if not (resume and (partial / JOURNAL).is_file()):
            _empty(partial)
        try:
            yield partial
            _flush(partial)
            _take_over(partial, out, force=force)
        except BaseException as error:
            if is_interruption(error) and (partial / JOURNAL).is_file():
                note = f"{partial} holds what is finished; --resume goes on from there."
                error.add_note(note)
            else:
                with suppress(OSError):
                    _remove(partial)
            raise


def partial_of(out: Path) -> Path:
    """The sibling that is filled before it takes the name of a new folder."""
    return out.with_name(f"{out.name}.partial")


def _check_parent(out: Path) -> None:
    if not out.parent.is_dir():
        raise ConfigError(f"{out.parent}: no such folder; create it first.")


@contextmanager
def _locked(partial: Path) -> Iterator[None]:
    """Make the folder if there is none, and hold it against other processes."""
    _check_left_by_merge(partial)
    partial.mkdir(exist_ok=True)
    with ExitStack() as held:
        try:
            lock = held.enter_context((partial / _LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            now = os.stat(partial / _LOCK)  # the folder may have got its name meanwhile
            if not os.path.samestat(os.fstat(lock.fileno()), now):
                raise BlockingIOError
        except (BlockingIOError, FileNotFoundError) as e:
            raise ConfigError(f"{partial}: another process is writing there.") from e
        yield


def _check_left_by_merge(partial: Path) -> None:
    if not os.path.lexists(partial):
        return
    is_folder = partial.is_dir() and not partial.is_symlink()
    if not is_folder or (any(partial.iterdir()) and not (partial / _LOCK).is_file()):
        raise ConfigError(f"{partial}: was not left by an earlier attempt; move it.")


def _take_over(partial: Path, out: Path, *, force: bool) -> None:
    """Give the folder its name; one that had it is removed last."""
    if force and out.is_dir():
        (out / _LOCK).touch()  # else nobody could tell later that it is to go
        _exchange(partial, out)
    else:
        check_absent(out)
        partial.rename(out)
    _flush(out.parent)
    (out / _LOCK).unlink()
    if partial.is_dir():
        _remove(partial)


def _exchange(one: Path, other: Path) -> None:
    """Give two folders each other's names, at once where the system can."""
    if _renameat2(one, other) == 0:
        return
    aside = other.with_name(f"{other.name}.old-{os.getpid()}")
    other.rename(aside)
    one.rename(other)
    aside.rename(one)


def _renameat2(one: Path, other: Path) -> int:
    """Linux's exchange of two names; 0 if it was done."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD of fcntl.h, RENAME_EXCHANGE of stdio.h
    if call is None:
        return -1
    names = os.fsencode(one), os.fsencode(other)
    return int(call(here, names[0], here, names[1], exchange))


def _empty(folder: Path) -> None:
    """Remove all but the lock, which tells who made the folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _remove(folder: Path) -> None:
    _empty(folder)
    (folder / _LOCK).unlink(missing_ok=True)
    folder.rmdir()


def _flush(folder: Path) -> None:
    """Make the entries of a folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
