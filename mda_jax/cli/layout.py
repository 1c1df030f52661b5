"""Which tensors count as matrices."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer


if TYPE_CHECKING:
    from mda_jax import trees


class RuleSet(StrEnum):
    """The rules to choose from."""

    DEFAULT = "default"
    EVERY_2D = "every_2d"


Layout = Annotated[
    RuleSet,
    typer.Option(
        help="Which tensors spectral methods see as matrices: linear maps and"
        " convolutions, or every 2-D tensor as fusion-bench does."
    ),
]


def rules(layout: RuleSet) -> "trees.Rules | None":
    """The rules of a name."""
    from mda_jax import trees

    return {RuleSet.DEFAULT: None, RuleSet.EVERY_2D: trees.every_2d}[layout]
