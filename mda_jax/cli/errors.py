"""Every failure is one line on stderr and an exit code."""

import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, NoReturn

import typer


FAILED, MISUSED, INTERRUPTED = 1, 2, 130
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextmanager
def one_line_errors(*, debug: bool, every: bool = False) -> Iterator[None]:
    """Turn what goes wrong inside into a line and an exit code.

    Args:
      debug: let the error through, traceback and all.
      every: a line for every problem that was found, not for the first alone.

    Yields:
      Nothing. A wrong request exits with 2, a failed merge with 1, an interrupt with
      130. Termination is an ordinary exit inside, so that clean-up happens.
    """
    from mda_jax.pipeline.errors import ConfigError

    before = signal.signal(signal.SIGTERM, _terminated)
    try:
        yield
    except KeyboardInterrupt as e:
        left = _notes(e) or "nothing was written."
        _exit(f"interrupted; {left}", INTERRUPTED)
    except SystemExit as e:
        if left := _notes(e):
            _complain(f"terminated; {left}")
        raise
    except Exception as e:
        if debug:
            raise
        others = [str(other) for other in getattr(e, "others", ())]
        more = f" And {len(others)} more; `mda-jax plan` shows them." if others else ""
        for text in [_text(e), *others][: -1 if every else 0]:
            _complain(text)
        last = others[-1] if every and others else _text(e)
        code = MISUSED if isinstance(e, ConfigError) else FAILED
        _exit(f"{last}{'' if every else more} {_notes(e)}", code)
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def told_warnings() -> Iterator[None]:
    """Print the warnings that are given inside, a line for each."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", UserWarning)
        yield
    for each in seen:
        warn(str(each.message))


def warn(text: str) -> None:
    """Print a warning."""
    print(f"mda-jax: warning: {_flat(text)}", file=sys.stderr)


def _terminated(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise SystemExit(128 + number)


def _exit(text: str, code: int) -> NoReturn:
    _complain(text)
    raise typer.Exit(code)


def _complain(text: str) -> None:
    print(f"mda-jax: error: {_flat(text)}", file=sys.stderr)


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or 'output'}: {error.strerror}."
    if isinstance(error, ValueError):
        return str(error)
    return f"{type(error).__name__}: {error}. See --debug."


def _notes(error: BaseException) -> str:
    """What was added to an error, such as what is left and how to go on."""
    return " ".join(getattr(error, "__notes__", ()))


def _flat(text: str) -> str:
    return " ".join(text.split())
