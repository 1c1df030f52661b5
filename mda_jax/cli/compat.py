"""Whose arithmetic a merge has."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer


if TYPE_CHECKING:
    from mda_jax.pipeline.arithmetic import Arithmetic


class Tool(StrEnum):
    """The tools to choose from."""

    MERGEKIT = "mergekit"


Compat = Annotated[
    Tool | None,
    typer.Option(
        "--compat",
        help="Compute as this tool does: in 'dtype', or the models' type, rounded"
        " after every operation. Without it: in float32, rounded once in the end.",
    ),
]


def arithmetic(compat: Tool | None) -> "Arithmetic":
    """The arithmetic of a tool; of none, ours."""
    from mda_jax import pipeline

    return pipeline.in_float32 if compat is None else pipeline.as_mergekit
