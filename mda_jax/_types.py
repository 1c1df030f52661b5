"""The vocabulary. Every other module is written in these words."""

import enum
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Array, Float, Int, Key, ScalarLike


Number: TypeAlias = ScalarLike  # a hyper-parameter; may be traced, hence swept
Weight: TypeAlias = Float[Array, "*d"]  # one parameter of one model
Deltas: TypeAlias = Float[Array, " k *d"]  # expert minus base, one row per expert
Rows: TypeAlias = Float[Array, " j *d"]  # what a stage returns; j need not be k


class Role(enum.Enum):
    """What a leaf is to a merge method."""

    MATRIX = "matrix"  # a linear map: seen by stages as [out, in]
    CONV = "conv"  # a convolution kernel: seen by stages as [out, in * window]
    EMBEDDING = "embedding"  # a table: tokens, lm_head, relative positions
    POSITION = "position"  # absolute position table
    VECTOR = "vector"  # bias, norm scale, class token
    SCALAR = "scalar"
    BUFFER = "buffer"  # integers, booleans, running statistics


class Side(NamedTuple):
    """What a stage may look at besides the deltas of its own weight."""

    base: Weight
    key: Key[Array, ""] | None = None
    aux: Any = None  # per-weight extras: a Fisher diagonal, a Gram matrix, ...
    role: Role | None = None  # None: judged by the number of axes
    first_row: int | Int[Array, ""] = 0  # where the weight is some rows of a larger one


Stage: TypeAlias = Callable[[Deltas, Side], Rows]


Survey: TypeAlias = Callable[..., Any]  # (deltas of one weight, side, *found) -> tree


class WholeModel(NamedTuple):
    """A method that looks at every weight before it knows its stage.

    Attributes:
      surveys: pure functions `(deltas [k, *d], side, *found) -> tree of arrays`, of
        one shape for all weights; the trees are summed over the weights. The next
        survey is handed all the sums `found` so far.
      settle: `(*found) -> Stage`, once the surveys are done.
    """

    surveys: tuple[Survey, ...]
    settle: Callable[..., Stage]
