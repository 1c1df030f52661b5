"""`mda-jax merge`: model folders in, one model folder out."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mda_jax.cli.compat import Compat, arithmetic
from mda_jax.cli.errors import Debug, one_line_errors, warn
from mda_jax.cli.layout import Layout, RuleSet, rules
from mda_jax.cli.memory import return_freed_memory
from mda_jax.cli.mesh import (
    Axes,
    Coordinator,
    Distributed,
    Format,
    OutFormat,
    Process,
    Processes,
    a_loss_ends_all,
    check_options,
    join,
)
from mda_jax.cli.plan import Names, Truncate, plan
from mda_jax.cli.progress import progress
from mda_jax.cli.tables import print_lines


if TYPE_CHECKING:
    from mda_jax.pipeline import Report

_UNITS = {"": 1, "B": 10**9}
_UNITS |= {unit: 10**power for unit, power in (("K", 3), ("M", 6), ("G", 9))}
_UNITS |= {f"{unit}I": 2**power for unit, power in (("K", 10), ("M", 20), ("G", 30))}


def size(text: str) -> int:
    """Bytes from a number with a unit; `5B` is 5 billion, as mergekit writes it.

    >>> size("5B"), size("1.5GB"), size("2GiB"), size("800")
    (5000000000, 1500000000, 2147483648, 800)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(?:(B|[KMG]?)|([KMG]I?)B)", text.upper())
    if not match or not (found := int(float(match[1]) * _UNITS[match[3] or match[2]])):
        raise typer.BadParameter(f"{text!r} is no size; write 500M, 5GB or 4GiB.")
    return found


def merge(
    config: Annotated[Path, typer.Argument(help="What to merge: mergekit's YAML.")],
    out: Annotated[Path, typer.Argument(help="Folder to create.")],
    seed: Annotated[
        int,
        typer.Option("--seed", "--random-seed", help="For methods that draw numbers."),
    ] = 0,
    layout: Layout = RuleSet.DEFAULT,
    out_shard_size: Annotated[
        int | None,
        typer.Option(
            parser=size, metavar="SIZE", help="Bytes per weight file; default: 5B."
        ),
    ] = None,
    out_format: OutFormat = Format.TORCH,
    mesh: Axes = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    processes: Processes = None,
    process: Process = None,
    copy_tokenizer: Annotated[
        bool, typer.Option(help="Copy the tokenizer's files.")
    ] = True,
    write_model_card: Annotated[bool, typer.Option(help="Write README.md.")] = True,
    intermediate_dir: Annotated[
        Path | None,
        typer.Option(
            "--intermediate-dir", "-I", help="Folder for the named merges of CONFIG."
        ),
    ] = None,
    max_memory: Annotated[
        int | None,
        typer.Option(
            parser=size, metavar="SIZE", help="Refuse a merge that holds more."
        ),
    ] = None,
    digest_inputs: Annotated[
        bool,
        typer.Option(
            "--digest-inputs", help="Note the SHA-256 of the models' weight files."
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace OUT once the merge is complete.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted merge.")
    ] = False,
    truncate: Truncate = False,
    compat: Compat = None,
    names: Names = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; write nothing.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Merge the models of CONFIG into the new folder OUT."""
    if dry_run:
        plan(
            config,
            layout=layout,
            truncate=truncate,
            compat=compat,
            names=names,
            debug=debug,
        )
        return
    return_freed_memory()
    with one_line_errors(debug=debug):
        given = {
            "--coordinator": coordinator,
            "--processes": processes,
            "--process": process,
            "--max-memory": max_memory,
            "--resume": resume,
            "--out-shard-size": out_shard_size,
            "--intermediate-dir": intermediate_dir,
        }
        check_options(mesh, out_format, distributed, given)
        if distributed:
            join(coordinator, processes, process)
        from mda_jax import pipeline

        is_one = not distributed or pipeline.is_first()
        devices = None if mesh is None else pipeline.mesh_of(mesh)
        with progress("merging", in_bytes=True, shown=is_one and not quiet) as watch:
            options: dict[str, Any] = {
                "mesh": devices,
                "digest_inputs": digest_inputs,
                "seed": seed,
                "layout": rules(layout),
                "force": force,
                "card": write_model_card,
                "tokenizer": copy_tokenizer,
                "truncate_embeddings": truncate,
                "arithmetic": arithmetic(compat),
                "names": names or {},
                "watch": watch,
            }
            if out_format is Format.ORBAX:
                with a_loss_ends_all():
                    reports = [pipeline.run_to_orbax(config, out, **options)]
            else:
                reports = pipeline.run_all(
                    config,
                    out,
                    intermediate=intermediate_dir,
                    max_memory=max_memory,
                    shard_size=out_shard_size or pipeline.SHARD_SIZE,
                    resume=resume,
                    **options,
                )
        for report in reports if is_one else ():
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
    Console().print(table)
    what = f"{len(report.rules)} tensors and {len(report.files)} other files"
    print_lines([f"{what} in {report.out} after {report.seconds:.1f} s"])
