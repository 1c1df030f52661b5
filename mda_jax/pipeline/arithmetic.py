"""Where results are rounded: once in the end, or after every operation."""

from collections.abc import Callable, Container, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np

from mda_jax.pipeline.config import Request
from mda_jax.pipeline.dialect import MERGEKIT, NOWHERE, Cast, Step
from mda_jax.pipeline.parameters import Numbers
from mda_jax.pipeline.parts import Part
from mda_jax.pipeline.recipe import Recipe
from mda_jax.pipeline.rounding import rounding_stage


Arithmetic: TypeAlias = Callable[[Request, Recipe, Part], list[Part]]


def in_float32(request: Request, todo: Recipe, part: Part) -> list[Part]:
    """In float32, rounded once in the end.

    Args:
      request: the merge.
      todo: its method.
      part: a part of the output.

    Returns:
      The part as it is.
    """
    del request, todo
    return [part]


def as_mergekit(request: Request, todo: Recipe, part: Part) -> list[Part]:
    """In the type that mergekit computes in, rounded after every operation.

    That type is the configuration's `dtype`, to which tensors are cast as they are
    read, else the type of the tensors. Where it is float32 nothing changes.

    Args:
      request: the merge.
      todo: its method.
      part: a part of the output.

    Returns:
      The part, divided by types.

    Raises:
      ConfigError: mergekit does not have the method, or its type is not settled: the
        models differ in a tensor's, and `dtype` is not given.
    """
    if todo.method not in MERGEKIT:
        problem = f"mergekit has no {todo.method!r}, and so no arithmetic for it."
        raise request.document.error(("merge_method",), problem)
    types = {name: _type(request, part, name) for name in part.steps}
    narrow = {dtype for dtype in types.values() if dtype.itemsize < 4}
    rest = {name for name in part.donor if types.get(name) not in narrow}
    found = [_only(part, rest)] if rest else []
    for dtype in sorted(narrow, key=str):
        names = {name for name, each in types.items() if each == dtype}
        found.append(_rounding(todo, _only(part, names), dtype))
    return found


def _type(request: Request, part: Part, name: str) -> np.dtype:
    """The type that mergekit computes a tensor in."""
    if request.config.dtype is not None:
        return jnp.dtype(request.config.dtype)
    ties = zip(part.experts, part.inventory.tied, strict=True)
    others = [expert.on_disk(tied.get(name, name)).dtype for expert, tied in ties]
    dtype = part.donor.on_disk(name).dtype
    if dtype.itemsize < 4 and set(others) != {dtype}:
        types = " and ".join(sorted({str(each) for each in (dtype, *others)}))
        problem = f"{name!r} is stored as {types}: give the 'dtype' to compute in."
        raise request.document.error((), problem)
    return dtype


def _only(part: Part, names: Container[str]) -> Part:
    """The part with some of its tensors."""
    donor, inventory = part.donor.only(names), part.inventory
    merged = {name: s for name, s in inventory.merged.items() if name in names}
    copied = {name: rule for name, rule in inventory.copied.items() if name in names}
    return part._replace(
        views=tuple(donor if view is part.donor else view for view in part.views),
        inventory=inventory._replace(merged=merged, copied=copied),
        numbers={name: n for name, n in part.numbers.items() if name in names},
        steps={name: step for name, step in part.steps.items() if name in names},
    )


def _as_listed(part: Part) -> Part:
    """The part with the experts as the configuration lists them, and mergekit adds."""
    places = sorted(range(len(part.experts)), key=part.cast.experts.__getitem__)

    def listed(each: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(each[i] for i in places)

    numbers = {
        name: replace(
            n,
            own=tuple((which, listed(values)) for which, values in n.own),
            experts=listed(n.experts),
        )
        for name, n in part.numbers.items()
    }
    return part._replace(
        cast=part.cast._replace(experts=listed(part.cast.experts)),
        inventory=part.inventory._replace(tied=list(listed(part.inventory.tied))),
        numbers=numbers,
    )


def _rounding(todo: Recipe, part: Part, dtype: np.dtype) -> Part:
    """The part with steps that see the weights, the base's first, and round."""
    part = _as_listed(part)
    cast, tied = part.cast, part.inventory.tied
    experts = cast.experts
    if cast.subtract:
        experts, tied = (cast.donor, *experts), [{}, *tied]

    @cache
    def step(numbers: Numbers) -> Step:
        return Step(rounding_stage(todo.method, numbers, dtype, base=cast.subtract))

    trims = any(step.trim is not None for step in part.steps.values())
    return part._replace(
        cast=Cast(cast.donor, experts, False),
        inventory=part.inventory._replace(tied=tied),
        steps={name: step(part.numbers[name]) for name in part.steps},
        elementwise=NOWHERE if trims else part.elementwise,
        rounded_to=dtype,
    )
