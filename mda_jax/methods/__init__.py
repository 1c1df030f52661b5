"""One file per method: `_ties.py` defines `ties`. The file is the registration."""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from mda_jax._types import Stage, WholeModel


names = tuple(sorted(m.name[1:] for m in pkgutil.iter_modules(__path__)))


def __getattr__(name: str) -> Callable[..., Stage | WholeModel]:
    if name not in names:
        raise AttributeError(f"no merge method {name!r}; there are: {', '.join(names)}")
    found: Any = getattr(importlib.import_module(f"{__name__}._{name}"), name)
    return found


def __dir__() -> list[str]:
    return [*names, "names"]
