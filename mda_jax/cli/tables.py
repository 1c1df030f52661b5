"""Results on a terminal."""

from collections.abc import Iterable
from typing import Any


def print_lines(lines: Iterable[str]) -> None:
    """Print text as it is, which the terminal may wrap."""
    from rich.console import Console

    console = Console()
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False)


def print_scores(scores: dict[str, Any]) -> None:
    """Print the table of a benchmark run."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from mda_jax.glyphs import report

    table = Table(box=box.SIMPLE_HEAD)
    for i, title in enumerate(report.HEADER):
        numeric = 0 < i < len(report.HEADER) - 1
        table.add_column(title, justify="right" if numeric else "left")
    for row in report.rows(scores):
        table.add_row(*row)
    Console().print(table)
