"""One file per method: `_ties.py` defines `ties`. The file is the registration."""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

from mda_jax._types import Stage, WholeModel


names = tuple(sorted(m.name[1:] for m in pkgutil.iter_modules(__path__)))


def experts_of(name: str) -> int | None:
    """How many experts a method merges: a fixed number, or None for any.

    >>> experts_of("ties")
    """
    return getattr(_file(name), "EXPERTS", None)


def __getattr__(name: str) -> Callable[..., Stage | WholeModel]:
    if name not in names:
        raise AttributeError(f"no merge method {name!r}; there are: {', '.join(names)}")
    found: Any = getattr(_file(name), name)
    return found


def __dir__() -> list[str]:
    return [*names, "experts_of", "names"]


def _file(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}._{name}")
