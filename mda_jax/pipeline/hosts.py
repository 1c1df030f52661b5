"""Several processes at one merge: what they agree on, and what one of them does."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from mda_jax.pipeline.errors import MergeError


_Item = TypeVar("_Item")


def is_first() -> bool:
    """Whether this process is the one that writes what there is once."""
    return jax.process_index() == 0


def share(items: list[_Item]) -> list[_Item]:
    """What this process does of work that any process can do."""
    return items[jax.process_index() :: jax.process_count()]


def gathered(values: np.ndarray) -> np.ndarray:
    """The values `[*n]` of every process, `[processes, *n]`, whatever their type."""
    if jax.process_count() == 1:
        return values[None]
    found = multihost_utils.process_allgather(values.reshape(-1).view(np.uint8))
    return np.asarray(found).view(values.dtype).reshape(-1, *values.shape)


def summed(values: np.ndarray) -> np.ndarray:
    """The values `[*n]` of all processes, of which one alone has each that is not 0."""
    return gathered(values).sum(0, dtype=values.dtype)


def check_same(what: str, text: str) -> None:
    """Raise unless every process has the same text.

    Args:
      what: it says, for the message.
      text: of this process.

    Raises:
      MergeError: another process has another one.
    """
    digest = hashlib.sha256(text.encode()).digest()
    found = gathered(np.frombuffer(digest, np.uint8))
    others = np.flatnonzero((found != found[0]).any(1))
    if others.size:
        problem = f"another {what} than process 0; nothing was written"
        advice = "Give all processes the same"
        raise MergeError(f"process {others[0]} has {problem}. {advice}.")


@contextmanager
def together() -> Iterator[None]:
    """What every process gets through, or none.

    Processes meet here. Without this, one that fails would leave the others waiting for
    its part of an array until JAX finds out that it is gone.

    Raises:
      MergeError: another process failed inside.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as e:
        error = e
    failed = np.flatnonzero(gathered(np.array([error is not None])))
    if error is not None:
        raise error
    if failed.size:
        problem = "failed, and says why; nothing was written"
        raise MergeError(f"process {failed[0]} of {jax.process_count()} {problem}.")
