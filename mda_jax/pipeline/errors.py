"""What can go wrong in a merge from files, besides a damaged file."""

from collections.abc import Iterator
from contextlib import contextmanager

from mda_jax.converters.errors import ConfigError as ConfigError, Problem


class MergeError(Problem):
    """The request is fine, but these models cannot be merged."""


class Problems:
    """Problems of independent checks, to be told together.

    >>> problems = Problems()
    >>> for value in (1, 2, 3):
    ...     with problems.collected():
    ...         if value != 2:
    ...             raise ConfigError(f"{value} is odd.")
    >>> try:
    ...     problems.raise_any()
    ... except ConfigError as error:
    ...     print(error, [str(other) for other in error.others])
    1 is odd. ['3 is odd.']
    """

    def __init__(self) -> None:
        self._found: dict[str, Problem] = {}

    @contextmanager
    def collected(self) -> Iterator[None]:
        """Keep a problem for later."""
        try:
            yield
        except (ConfigError, MergeError) as error:
            for each in (error, *error.others):
                self._found.setdefault(str(each), each)

    def raise_any(self) -> None:
        """Raise the first problem, if there is one; it knows the others."""
        first, *others = self._found.values() or (None,)
        if first is not None:
            first.others = tuple(others)
            raise first
