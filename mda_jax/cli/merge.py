"""`mda-jax merge`: model folders in, one model folder out."""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mda_jax.cli.errors import Debug, one_line_errors, warn
from mda_jax.cli.memory import return_freed_memory
from mda_jax.cli.progress import progress


if TYPE_CHECKING:
    from mda_jax.pipeline import Report

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}


class RuleSet(StrEnum):
    """Which tensors count as matrices."""

    DEFAULT = "default"
    EVERY_2D = "every_2d"


def shard_size(text: str) -> int:
    """Bytes from a number with a unit; `5B` is 5 billion, as mergekit writes it.

    >>> shard_size("5B"), shard_size("1.5GB"), shard_size("800")
    (5000000000, 1500000000, 800)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:([KMGB]?)|([KMG])B)", text.upper())
    if not match or not (size := int(float(match[1]) * _UNITS[match[3] or match[2]])):
        raise typer.BadParameter(f"{text!r} is no size; write 500M, 5GB or 5B.")
    return size


def merge(
    config: Annotated[Path, typer.Argument(help="What to merge: mergekit's YAML.")],
    out: Annotated[Path, typer.Argument(help="Folder to create.")],
    seed: Annotated[int, typer.Option(help="For methods that draw numbers.")] = 0,
    layout: Annotated[
        RuleSet,
        typer.Option(
            help="Which tensors spectral methods see as matrices: linear maps and"
            " convolutions, or every 2-D tensor as fusion-bench does."
        ),
    ] = RuleSet.DEFAULT,
    out_shard_size: Annotated[
        int,
        typer.Option(parser=shard_size, metavar="SIZE", help="Bytes per weight file."),
    ] = "5B",  # type: ignore[assignment]  # parsed like what the user types
    quiet: Annotated[
        bool, typer.Option("--quiet", help="Print warnings and errors only.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Merge the models of CONFIG into the new folder OUT."""
    return_freed_memory()
    with one_line_errors(debug=debug):
        from mda_jax import pipeline, trees

        rules = {RuleSet.DEFAULT: None, RuleSet.EVERY_2D: trees.every_2d}[layout]
        with progress("merging", in_bytes=True, shown=not quiet) as watch:
            report = pipeline.run(
                config,
                out,
                seed=seed,
                layout=rules,
                shard_size=out_shard_size,
                watch=watch,
            )
        for line in report.warnings:
            warn(line)
        if not quiet:
            _summarise(report)


def _summarise(report: "Report") -> None:
    """Print what happened to how many tensors."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("what happened")
    table.add_column("tensors", justify="right")
    for rule, count in report.counts().items():
        table.add_row(rule, str(count))
    console = Console()
    console.print(table)
    console.print(
        f"{len(report.rules)} tensors and {len(report.files)} other files in"
        f" {report.out} after {report.seconds:.1f} s",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
