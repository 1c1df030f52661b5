"""Options of `mda-jax merge` for several devices and several processes."""

import atexit
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer

from mda_jax.cli.errors import FAILED


class Format(StrEnum):
    """What to write."""

    TORCH = "torch"
    ORBAX = "orbax"


_LAST = 60  # seconds that one process waits for the others when it ends
_NAMES = "xyz"  # of the axes of a mesh that has no names
_ADDRESS = re.compile(r".+:\d+")
_AXIS = re.compile(r"([A-Za-z_]\w*)=([1-9]\d*)")


def axes(text: str) -> dict[str, int]:
    """The axes of a mesh, by name.

    >>> axes("4x2"), axes("data=4,model=2")
    ({'x': 4, 'y': 2}, {'data': 4, 'model': 2})
    """
    sizes = text.split("x")
    if all(re.fullmatch(r"[1-9]\d*", size) for size in sizes[: len(_NAMES)]):
        named = dict(zip(_NAMES, map(int, sizes), strict=False))
        parts = sizes
    else:
        parts = text.split(",")
        found = [_AXIS.fullmatch(part) for part in parts]
        named = {match[1]: int(match[2]) for match in found if match}
    if len(named) != len(parts):
        expected = "write 8, 4x2 or data=4,model=2"
        raise typer.BadParameter(f"{text!r} is no mesh; {expected}.")
    return named


def address(text: str) -> str:
    """A host and a port.

    >>> address("10.0.0.1:1234")
    '10.0.0.1:1234'
    """
    if not _ADDRESS.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is no address; write HOST:PORT.")
    return text


Axes = Annotated[
    Any,
    typer.Option(
        "--mesh",
        parser=axes,
        metavar="AXES",
        help="Spread every tensor over all devices: 8, 4x2 or data=4,model=2.",
    ),
]
OutFormat = Annotated[
    Format,
    typer.Option(
        help="torch: model.safetensors; orbax: the folder params, which needs --mesh."
    ),
]
Distributed = Annotated[
    bool,
    typer.Option(
        "--distributed",
        help="This process is one of several that run this command, each on its host;"
        " with --mesh and --out-format orbax.",
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        parser=address,
        metavar="HOST:PORT",
        help="With --distributed, where JAX does not find out by itself (as on Cloud"
        " TPU, Slurm, Open MPI, Kubernetes): the first process, and a free port.",
    ),
]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Likewise: the number of processes.")
]
Process = Annotated[
    int | None, typer.Option(min=0, help="Likewise: which this one is, from 0.")
]


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Become one of several processes, before JAX looks for devices.

    Args:
      coordinator: address and port of the first process; None leaves it to JAX.
      processes: their number; None likewise.
      process: this one's number; None likewise.

    Raises:
      ConfigError: some is missing, and JAX knows no cluster here.
    """
    import jax

    from mda_jax.pipeline.errors import ConfigError

    try:
        jax.distributed.initialize(
            coordinator,
            processes,
            process,
            shutdown_timeout_seconds=_LAST,
        )
    except ValueError as e:
        problem = f"--distributed: JAX cannot tell the processes ({e})"
        advice = "give --coordinator HOST:PORT, --processes N and --process I"
        raise ConfigError(f"{problem}; {advice}.") from e


@contextmanager
def a_loss_ends_all() -> Iterator[None]:
    """Have this process end at once, and say why, if another one of its merge is gone.

    Else JAX would wait for it at the end, and abort.

    Raises:
      MergeError: JAX lost another process.
    """
    import jax

    from mda_jax.pipeline.errors import MergeError

    try:
        yield
    except jax.errors.JaxRuntimeError as e:
        if jax.process_count() == 1:
            raise
        atexit.register(_end)
        problem = "another process seems to be gone; nothing was written"
        raise MergeError(f"{problem} ({e})") from e


def _end() -> None:
    sys.stdout.flush()
    os._exit(FAILED)


def check_options(
    mesh: dict[str, int] | None,
    format: Format,
    distributed: bool,
    given: Mapping[str, object],
) -> None:
    """Raise if options do not go together.

    Args:
      mesh: its axes.
      format: to write.
      distributed: whether this is one process of several.
      given: the other options, None or False where not given.

    Raises:
      ConfigError: it names the first.
    """
    from mda_jax.pipeline.errors import ConfigError

    def refuse(problem: str, *names: str) -> None:
        for name in names:
            if given[name] is not None and given[name] is not False:
                raise ConfigError(f"{name} {problem}.")

    to_orbax = format is Format.ORBAX
    given = {**given, "--distributed": distributed, "--out-format orbax": to_orbax}
    if mesh is None:
        refuse("needs --mesh; one device is --mesh 1", "--out-format orbax")
        refuse("needs --mesh", "--distributed")
    else:
        refuse("predicts a merge on one device; leave out --mesh", "--max-memory")
    if not distributed:
        refuse("needs --distributed", "--coordinator", "--processes", "--process")
    if not to_orbax:
        refuse("needs --out-format orbax", "--distributed")
    else:
        problem = "does not go with --out-format orbax"
        refuse(problem, "--resume", "--out-shard-size", "--intermediate-dir")
