"""From a configuration to steps: mergekit's methods, and our own."""

import inspect
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

from mda_jax import methods, primitives as p
from mda_jax._types import Role, Stage, WholeModel
from mda_jax.combine import chain, is_spectral, stage
from mda_jax.pipeline import parameters
from mda_jax.pipeline.config import Request, Section
from mda_jax.pipeline.dialect import (
    EVERYWHERE,
    MERGEKIT,
    NOWHERE,
    Cast,
    Dialect,
    Step,
    array,
    into_base,
)
from mda_jax.pipeline.document import nearest
from mda_jax.pipeline.errors import ConfigError
from mda_jax.pipeline.parameters import Numbers, Parameter, Signature


ELSEWHERE = EVERYWHERE - {Role.MATRIX, Role.CONV}  # than where spectral methods work


class Recipe(NamedTuple):
    """What a configuration asks for, whatever the models hold."""

    method: str
    signature: Signature
    casts: tuple[Cast, ...]  # one for each section
    step: Callable[[Numbers], Step]
    elementwise: frozenset[Role]  # where entries do not depend on each other


def recipe(request: Request) -> Recipe:
    """Choose the method.

    Args:
      request: a configuration whose models exist.

    Returns:
      The recipe.

    Raises:
      ConfigError: the method is unknown, a parameter is unknown or out of range, or
        the models are not as many as the method merges.
    """
    name = request.config.merge_method
    if name in MERGEKIT:
        dialect = MERGEKIT[name]
    elif name in methods.names:
        dialect = _ours(request)
    else:
        hint = nearest(name, {*methods.names, *MERGEKIT})
        problem = f"no merge method {name!r}; {hint}."
        raise request.document.error(("merge_method",), problem)
    parameters.check(request, dialect.signature)
    step = cache(partial(_in_words, request, dialect.step))
    casts = tuple(_in_order(dialect.cast(request, s), s) for s in request.sections)
    return Recipe(name, dialect.signature, casts, step, dialect.elementwise)


def _in_order(cast: Cast, section: Section) -> Cast:
    """With the experts by name: a sum does not depend on how models are listed."""
    by_name = sorted(cast.experts, key=lambda i: section.ingredients[i].name)
    return cast._replace(experts=tuple(by_name))


def _in_words(
    request: Request, step: Callable[[Numbers], Step], numbers: Numbers
) -> Step:
    """A step; what is wrong with its numbers is an error of the configuration."""
    try:
        return step(numbers)
    except ValueError as e:
        raise request.document.error(("parameters",), str(e)) from e


def _ours(request: Request) -> Dialect:
    """A method of this library: its arguments by name, `lambda` being its scale."""
    name = request.config.merge_method
    factory = getattr(methods, name)
    arguments = inspect.signature(factory).parameters.values()
    signature = {
        a.name: Parameter(a.default)
        for a in arguments
        if isinstance(a.default, int | float)
    }
    sample = factory()
    given = [level.settings for section in request.sections for level in section.levels]
    if "scale" in signature and any("lambda" in settings for settings in given):
        if any("scale" in settings for settings in given):
            raise _twice(request)
        signature["lambda"] = signature.pop("scale")
    if not isinstance(sample, WholeModel):
        signature["weight"] = Parameter(1.0, own=True)
    most = methods.experts_of(name)
    elementwise = ELSEWHERE if is_spectral(sample) else NOWHERE
    step = partial(_our_step, factory)
    return Dialect(signature, partial(into_base, most=most), step, elementwise)


def _our_step(factory: Callable[..., Stage | WholeModel], n: Numbers) -> Step:
    given = n.common
    if "lambda" in given:
        given["scale"] = given.pop("lambda")
    method = factory(**given)
    weights = dict(n.own).get("weight", ())
    if isinstance(method, WholeModel) or set(weights) == {1.0}:
        return Step(method)
    return Step(chain(stage(p.weighted, weights=array(weights)), method))


def _twice(request: Request) -> ConfigError:
    problem = "'lambda' and 'scale' are the same number: give one of them."
    return request.document.error(("parameters", "scale"), problem)
