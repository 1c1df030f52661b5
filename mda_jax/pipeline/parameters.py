"""The parameters of a merge, tensor by tensor: the nearest place that sets one counts.

The order is mergekit's: the model's own (in its slice), the slice's, the module's, the
common ones, and what the method does by default.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mda_jax.pipeline.config import Ingredient, Level, Request, Section
from mda_jax.pipeline.document import Document, Steps, nearest
from mda_jax.pipeline.errors import ConfigError, Problems
from mda_jax.pipeline.settings import Setting, at, filters, scalars, varies


Value = float | int | bool


class Parameter(NamedTuple):
    """What a method accepts under one name."""

    default: float | bool | None  # None: required
    own: bool = False  # may differ from model to model
    fraction: bool = False  # lies in (0, 1]

    @property
    def is_flag(self) -> bool:
        """Whether it is true or false, and no number."""
        return isinstance(self.default, bool)

    def counted(self, value: Value) -> Value:
        """The value as a whole number, where the default is one."""
        return int(value) if type(self.default) is int else value


Signature = Mapping[str, Parameter]


class Place(NamedTuple):
    """Where a tensor stands."""

    tensor: str  # name in the output
    stored: tuple[str, ...]  # name in each ingredient
    depth: float  # of its layer, in [0, 1]


@dataclass(frozen=True)
class Numbers:
    """The values of every parameter for one tensor; hashable."""

    items: tuple[tuple[str, Value], ...]
    own: tuple[tuple[str, tuple[float, ...]], ...]  # one value per expert
    experts: tuple[str, ...]  # as they are called in the configuration

    @property
    def common(self) -> dict[str, Value]:
        """The parameters that experts have in common."""
        return dict(self.items)

    def each(self, name: str) -> tuple[float, ...]:
        """The value for every expert."""
        return dict(self.own)[name]


def check(request: Request, signature: Signature) -> None:
    """Refuse every parameter that the method does not have, or of the wrong kind.

    Args:
      request: the merge.
      signature: the parameters of its method.

    Raises:
      ConfigError: with the line and the nearest known name.
    """
    document, method = request.document, request.config.merge_method
    own = {name: p for name, p in signature.items() if p.own}
    problems = Problems()
    for section in request.sections:
        for place, setting in _settings(section.levels):
            with problems.collected():
                _check_one(document, method, place, setting, signature)
        for place, setting in _settings(tuple(i.own for i in section.ingredients)):
            with problems.collected():
                name = place[-1]
                if name in signature and name not in own:
                    problem = "is one for all models: move it to the top level."
                    raise document.error(place, f"{name!r} {problem}")
                _check_one(document, method, place, setting, own)
    problems.raise_any()


def numbers(
    request: Request,
    section: Section,
    experts: tuple[int, ...],
    signature: Signature,
    place: Place,
) -> Numbers:
    """Look up every parameter for one tensor.

    Args:
      request: the merge.
      section: the part of the output that the tensor belongs to.
      experts: which of its ingredients have values of their own.
      signature: the parameters of the method.
      place: where the tensor stands.

    Returns:
      A value for each.

    Raises:
      ConfigError: a required one is missing.
    """
    method = request.config.merge_method
    common, own = [], []
    for name, parameter in signature.items():
        shared = _first(section.levels, name, place.tensor, place.depth)
        shared = parameter.default if shared is None else shared
        if not parameter.own:
            if shared is None:
                problem = f"parameter {name!r} is required by {method}."
                raise request.document.error(section.steps, problem)
            common.append((name, parameter.counted(shared)))
            continue
        values = []
        for i in experts:
            mine = section.ingredients[i].own
            found = _first((mine,), name, place.stored[i], place.depth)
            found = shared if found is None else found
            if found is None:
                raise _missing(request, section.ingredients[i], name)
            values.append(float(found))
        own.append((name, tuple(values)))
    names = tuple(section.ingredients[i].name for i in experts)
    return Numbers(tuple(common), tuple(own), names)


def check_filters(request: Request, places: list[tuple[Section, Place]]) -> None:
    """Refuse a filter that no tensor's name contains.

    Args:
      request: the merge.
      places: every tensor of the output.

    Raises:
      ConfigError: with the line.
    """
    seen: dict[tuple[Steps, str], bool] = {}
    problems = Problems()
    for section, place in places:
        owners = zip(place.stored, section.ingredients, strict=True)
        own = ((name, (ingredient.own,)) for name, ingredient in owners)
        for tensor, levels in ((place.tensor, section.levels), *own):
            for steps, setting in _settings(levels):
                for text in filters(setting):
                    matched = seen.get((steps, text), False) or text in tensor
                    seen[steps, text] = matched
    for (steps, text), matched in seen.items():
        with problems.collected():
            if not matched:
                problem = "is in the name of no tensor that is merged here."
                raise request.document.error(steps, f"filter {text!r} {problem}")
    problems.raise_any()


def check_gradients(request: Request, section: Section) -> None:
    """Refuse values that run over layers, for a section whose names tell none.

    Args:
      request: the merge.
      section: the part of the output.

    Raises:
      ConfigError: with the line.
    """
    levels = (*section.levels, *(each.own for each in section.ingredients))
    for steps, setting in _settings(levels):
        if varies(setting):
            problem = f"{steps[-1]!r} runs over the layers, and no name tells one"
            problem = f"{problem}; 'layers' in a file of --names does."
            raise request.document.error(steps, problem)


def _settings(levels: tuple[Level, ...]) -> Iterator[tuple[Steps, Setting | None]]:
    """Every setting and its place in the document."""
    for steps, settings in levels:
        for name, setting in settings.items():
            yield (*steps, "parameters", name), setting


def _first(
    levels: tuple[Level, ...], name: str, tensor: str, depth: float
) -> Value | None:
    settings = (level.settings[name] for level in levels if name in level.settings)
    values = (at(setting, tensor, depth) for setting in settings)
    return next((value for value in values if value is not None), None)


def _missing(request: Request, ingredient: Ingredient, name: str) -> ConfigError:
    return request.document.error(
        ingredient.own.steps,
        f"{ingredient.name}: parameter {name!r} is required by"
        f" {request.config.merge_method}; set it here or at the top level.",
    )


def _check_one(
    document: Document,
    method: str,
    steps: Steps,
    setting: Setting | None,
    signature: Signature,
) -> None:
    name = str(steps[-1])
    if name not in signature:
        hint = nearest(name, signature)
        problem = f"{method} has no parameter {name!r}; {hint}."
        raise document.error(steps, problem)
    parameter = signature[name]
    for value in scalars(setting):
        if isinstance(value, bool) != parameter.is_flag:
            expected = "true or false" if parameter.is_flag else "a number"
            problem = f"got {value!r}; expected {expected}."
            raise document.error(steps, f"{name!r}: {problem}")
        if parameter.counted(value) != value:
            problem = f"got {value:g}; expected a whole number."
            raise document.error(steps, f"{name!r}: {problem}")
        if parameter.fraction and not 0 < value <= 1:
            problem = f"got {value:g}; expected a fraction in (0, 1]."
            raise document.error(steps, f"{name!r}: {problem}")
