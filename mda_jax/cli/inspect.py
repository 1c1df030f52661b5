"""`mda-jax inspect`: what a checkpoint is, from its headers."""

import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from mda_jax.cli.convert import Model, opened
from mda_jax.cli.errors import Debug, one_line_errors, told_warnings
from mda_jax.cli.tables import print_lines


if TYPE_CHECKING:
    from mda_jax.converters import Checkpoint
    from mda_jax.converters.formats import Spec


def inspect(
    path: Model,
    every: Annotated[
        bool, typer.Option("--every", help="A row for each tensor, no groups.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show family, dialect, shapes, types and ties of a checkpoint."""
    with one_line_errors(debug=debug):
        from mda_jax.converters.convert import leaves

        checkpoint = opened(path)
        _print(checkpoint, every)
        with told_warnings():
            leaves(checkpoint)


def _print(checkpoint: "Checkpoint", every: bool) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for column in ("tensors", "shape", "type", "count"):
        table.add_column(column, overflow="fold")
    tensors = checkpoint.tensors
    specs = {name: tensors.spec(name) for name in tensors}
    groups = Counter(
        (name if every else _outline(name), s) for name, s in specs.items()
    )
    for (name, spec), count in groups.items():
        shape = " x ".join(map(str, spec.shape)) or "()"
        table.add_row(name, shape, spec.dtype.name, str(count))
    Console().print(table)
    print_lines(_summary(checkpoint, specs))


def _summary(checkpoint: "Checkpoint", specs: "dict[str, Spec]") -> list[str]:
    naming, source = checkpoint.naming, checkpoint.source
    types = Counter(spec.dtype.name for spec in specs.values())
    lines = [
        f"family: {naming.family}, dialect: {naming.dialect}"
        + (f", prefix: {naming.prefix!r}" if naming.prefix else "")
        + (f", before every name: {naming.wrapper!r}" if naming.wrapper else ""),
        f"{len(specs)} tensors, {sum(s.size for s in specs.values()):,} numbers,"
        f" {sum(s.nbytes for s in specs.values()):,} bytes;"
        f" {', '.join(f'{name} {n}' for name, n in types.items())}",
    ]
    lines += [f"tied: {name} is {other}" for name, other in checkpoint.ties.items()]
    if len(source.stash):
        lines.append(f"no place in Flax, carried along: {', '.join(source.stash)}")
    if naming != source.naming:
        lines.append(f"converted from: {source.naming.dialect}")
    return lines


def _outline(name: str) -> str:
    """A name with its numbers left out.

    >>> _outline("layers.10.mlp.fc1.weight")
    'layers.*.mlp.fc1.weight'
    """
    return re.sub(r"(?<=[._/])\d+(?=[._/])", "*", name)
