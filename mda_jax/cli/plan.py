"""`mda-jax plan`: what a merge would do."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mda_jax.cli.compat import Compat, arithmetic
from mda_jax.cli.errors import Debug, one_line_errors, warn
from mda_jax.cli.layout import Layout, RuleSet, rules
from mda_jax.cli.tables import print_lines


if TYPE_CHECKING:
    from mda_jax.pipeline import Plan


Truncate = Annotated[
    bool,
    typer.Option(
        "--unsafe-truncate-embeddings",
        help="Cut all token tables to the shortest, whatever the tokens beyond it.",
    ),
]
Names = Annotated[
    Path | None,
    typer.Option(
        help="YAML file that says what names of tensors mean where that is inferred"
        " wrongly: layers, ties, tokens, before, roles."
    ),
]


def plan(
    config: Annotated[Path, typer.Argument(help="What to merge: mergekit's YAML.")],
    layout: Layout = RuleSet.DEFAULT,
    truncate: Truncate = False,
    compat: Compat = None,
    names: Names = None,
    debug: Debug = False,
) -> None:
    """Show what a merge would do, from the configuration and the files' headers."""
    with one_line_errors(debug=debug, every=True):
        from mda_jax import pipeline

        found = pipeline.plan(
            config,
            layout=rules(layout),
            truncate_embeddings=truncate,
            arithmetic=arithmetic(compat),
            names=names or {},
        )
        for line in found.warnings:
            warn(line)
        _print(found)


def _print(plan: "Plan") -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for rule in dict.fromkeys(row.rule for row in plan.rows):
        table = Table(box=box.SIMPLE_HEAD, title=rule, title_justify="left")
        for column in ("tensors", "shape", "read as", "written as"):
            table.add_column(column, overflow="fold")
        for row in (row for row in plan.rows if row.rule == rule):
            shape = " x ".join(map(str, row.shape)) or "()"
            table.add_row(row.tensors, shape, row.read, row.written)
        console.print(table)
    print_lines(plan.summary())
