"""`mda-jax estimate`: what a merge on a mesh would cost, before there is one."""

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mda_jax.cli.errors import Debug, one_line_errors
from mda_jax.cli.layout import Layout, RuleSet, rules
from mda_jax.cli.mesh import axes
from mda_jax.cli.plan import Names
from mda_jax.cli.tables import print_lines


if TYPE_CHECKING:
    from mda_jax.pipeline import Estimate
    from mda_jax.pipeline.estimate import Row


def estimate(
    config: Annotated[Path, typer.Argument(help="What to merge: mergekit's YAML.")],
    mesh: Annotated[
        dict,
        typer.Option(
            parser=axes, metavar="AXES", help="256, 16x16 or data=16,model=16 devices."
        ),
    ],
    layout: Layout = RuleSet.DEFAULT,
    names: Names = None,
    debug: Debug = False,
) -> None:
    """Estimate work, messages, memory and time of a merge on a mesh, from headers.

    No such devices are needed: the programs are compiled for fake ones.
    """
    with one_line_errors(debug=debug, every=True):
        _pretend(math.prod(mesh.values()))
        from mda_jax import pipeline

        places = pipeline.mesh_of(mesh)
        found = pipeline.estimate(
            config, places, layout=rules(layout), names=names or {}
        )
        _print(found, places.size)


def _pretend(devices: int) -> None:
    """Have JAX, if it has not started, offer so many CPU devices and no others.

    They are to hold memory as accelerators do, that is, for one thing after the other.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    flags = (
        os.environ.get("XLA_FLAGS", ""),
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_cpu_enable_concurrency_optimized_scheduler=false",
    )
    os.environ["XLA_FLAGS"] = " ".join(flags)


def _lies(row: "Row") -> str:
    """The shape, and what axes of the mesh divide it: `1000 (x) x 256 (y)`."""
    pairs = zip(row.shape, row.spread, strict=True)
    return " x ".join(f"{size} ({axes})" if axes else f"{size}" for size, axes in pairs)


def _print(found: "Estimate", devices: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    title = f"estimates for {found.method}, for each of {devices} devices"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("tensors, and how they lie", overflow="fold")
    table.add_column("merged")
    for column in ("GFLOP", "MB through\nmemory", "MB sent", "MB held"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found.rows:
        cost = row.cost
        sent = {kind: row.calls * size for kind, size in cost.collectives.items()}
        table.add_row(
            f"{row.tensors}\n{_lies(row)}",
            "whole" if row.whole else "in place",
            f"{row.calls * (cost.products + cost.factorisations) / 1e9:.3g}",
            f"{row.calls * cost.traffic / 1e6:.3g}",
            "\n".join(f"{n / 1e6:.3g} {kind}" for kind, n in sent.items()) or "0",
            f"{cost.held / 1e6:.3g}",
        )
    Console().print(table)
    print_lines(_summary(found))


def _summary(found: "Estimate") -> list[str]:
    """The times and the memory in lines, and what the table's words mean."""
    from mda_jax.engine import ACCELERATORS

    lines = []
    for chip in ACCELERATORS:
        time = f"estimate at least {found.seconds(chip):.2g} s at its published peaks"
        fits = "fits" if found.held <= chip.memory else "does NOT fit"
        memory = f"{found.held / 1e9:.3g} GB {fits} in {chip.memory >> 30} GiB"
        lines.append(f"{chip.name}: {time}; {memory}")
    return [
        *lines,
        "whole: each matrix goes to one device; in place: parts stay where they lie.",
        "Not counted: files, transfers from hosts, what is trimmed before. Matrix"
        " decompositions are taken to run as fast as products, which they do not.",
    ]
