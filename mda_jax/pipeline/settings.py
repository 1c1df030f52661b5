"""Values of parameters: one number, a gradient over the depth, or one by tensor name.

The grammar is mergekit's: a number, a list of numbers, or a list of `{filter, value}`
whose first match counts.
"""

from collections.abc import Iterator
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Strict(BaseModel):
    """A mapping with known keys only; one without a value is as good as absent."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        empty = {k for k in cls.model_fields if k in data and data[k] is None}
        return {k: v for k, v in data.items() if k not in empty}


Scalar: TypeAlias = bool | Annotated[float, Field(allow_inf_nan=False)]
Gradient: TypeAlias = Annotated[list[Scalar], Field(min_length=1)]


class Conditional(Strict):
    """A value for the tensors whose name contains the filter; no filter, for all."""

    filter: str | None = None
    value: Scalar | Gradient

    def covers(self, tensor: str) -> bool:
        """Whether the value is meant for this tensor."""
        return self.filter in (None, "*") or str(self.filter) in tensor


Conditionals: TypeAlias = Annotated[
    list[Conditional],
    Field(min_length=1),
    BeforeValidator(lambda value: [value] if isinstance(value, dict) else value),
]
Setting: TypeAlias = Scalar | Gradient | Conditionals
Settings: TypeAlias = dict[str, Setting | None]  # None: as good as absent


def at(setting: Setting | None, tensor: str, depth: float) -> float | bool | None:
    """The value of a setting for one tensor.

    Args:
      setting: as written.
      tensor: its name.
      depth: where its layer stands in the slice, in [0, 1].

    Returns:
      The value; None if there is none, or no filter covers the tensor.

    >>> at([0.0, 0.5, 0.2], "x", 0.75)
    0.35
    """
    if not isinstance(setting, list):
        return setting
    if isinstance(setting[0], Conditional):
        found = (c for c in setting if c.covers(tensor))  # type: ignore[union-attr]
        first = next(found, None)
        return None if first is None else at(first.value, tensor, depth)
    place = depth * (len(setting) - 1)
    below = int(place)
    above, share = min(below + 1, len(setting) - 1), place - below
    low, high = (float(setting[i]) for i in (below, above))  # type: ignore[arg-type]
    return (1 - share) * low + share * high


def scalars(setting: Setting | None) -> Iterator[float | bool]:
    """Every value that a setting can take, or interpolates between."""
    for each in setting if isinstance(setting, list) else [setting]:
        if isinstance(each, Conditional):
            yield from scalars(each.value)
        elif each is not None:
            yield each


def varies(setting: Setting | None) -> bool:
    """Whether some value of a setting runs over the layers.

    >>> varies([0.0, 0.5]), varies([Conditional(value=[1.0])]), varies(0.5)
    (True, False, False)
    """
    if not isinstance(setting, list):
        return False
    values = [each.value for each in setting if isinstance(each, Conditional)]
    return any(map(varies, values)) if values else len(setting) > 1


def filters(setting: Setting | None) -> Iterator[str]:
    """The filters of a setting that are to match something."""
    for each in setting if isinstance(setting, list) else []:
        if isinstance(each, Conditional) and each.filter not in (None, "*"):
            yield str(each.filter)
