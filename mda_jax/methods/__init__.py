"""One file per method: `_ties.py` defines `ties`. The file is the registration.

A merge has slopes in the base, in the experts, in the numbers of its method and in the
weights per expert. They are finite everywhere, and where there is a derivative they are
it; `wudi` alone holds more still. What a method chooses is held still: which entries it
keeps or draws, which experts agree, when an iteration ends. A number that does nothing
but choose has slope 0: `density`, `outliers` and `share` of what is kept by size,
`clip`, `epsilon` of `ram` and `ram_plus`, `quantile`, `tolerance`, `votes`.

There is no derivative where a rank changes or a vector without length is divided by it.
Where the rank of a matrix is not full, slopes are those along matrices of that rank; a
delta of 0 may have the slope 0. Equal singular values do no harm to `iso_c`, `mda`,
`dls`, `svc` and `mda_task_frame`, nor to `tsv` and `iso_cts` unless a subspace ends
between them; `mda_frame`, `mda_project` and `dc_merge` look at each direction, and have
no derivative there.
"""

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
