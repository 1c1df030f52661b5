"""The parts of the output, each with the tensors that go into it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from mda_jax._types import Role
from mda_jax.converters.formats import Tensors
from mda_jax.pipeline.config import Ingredient, Request, Section
from mda_jax.pipeline.embeddings import Tables
from mda_jax.pipeline.errors import ConfigError, MergeError, Problems
from mda_jax.pipeline.inventory import Inventory, account
from mda_jax.pipeline.naming import INFERRED, Naming
from mda_jax.pipeline.parameters import (
    Numbers,
    Place,
    check_filters,
    check_gradients,
    numbers,
)
from mda_jax.pipeline.recipe import Cast, Recipe, Step
from mda_jax.pipeline.views import View


UNUSED = "left out: no part of the output takes it"
Models = Mapping[Path, Tensors]


class Part(NamedTuple):
    """A part of the output, and what it is made of."""

    cast: Cast
    views: tuple[View, ...]  # of every ingredient
    inventory: Inventory
    numbers: dict[str, Numbers]  # of every tensor that is merged
    steps: dict[str, Step]
    elementwise: frozenset[Role]  # where entries do not depend on each other
    rounded_to: np.dtype | None = None  # after every operation; None: in the end

    @property
    def donor(self) -> View:
        """Gives names, shapes and types."""
        return self.views[self.cast.donor]

    @property
    def experts(self) -> tuple[View, ...]:
        """The models that are merged."""
        return tuple(self.views[i] for i in self.cast.experts)


def parts(
    request: Request,
    recipe: Recipe,
    models: Models,
    tables: Tables = MappingProxyType({}),
    naming: Naming = INFERRED,
) -> list[Part]:
    """Settle what every tensor of the output is made of.

    Args:
      request: the merge.
      recipe: its method.
      models: what stands for a model -> opened checkpoint.
      tables: of the same models, the token tables that are to have other rows.
      naming: what the names of tensors mean.

    Returns:
      One part for each section.

    Raises:
      ConfigError: layers that a model does not have, a module that no tensor belongs
        to, a filter that matches nothing, a missing parameter.
      MergeError: the models do not fit each other.
    """
    found: list[Part] = []
    places: list[dict[str, Place]] = []
    problems = Problems()
    seen = _views(request, recipe, models, tables, naming)
    for (section, views), cast in zip(seen, recipe.casts, strict=True):
        with problems.collected():
            experts = [views[i] for i in cast.experts]
            inventory = account(views[cast.donor], experts, naming)
            seen_by = cast, tuple(views), inventory
            found.append(Part(*seen_by, {}, {}, recipe.elementwise))
            places.append(_places(found[-1], naming))
            if not naming.stacks(views[cast.donor].model):
                check_gradients(request, section)
    problems.raise_any()
    _check_modules(request, found)
    pairs = zip(request.sections, places, strict=True)
    check_filters(request, [(s, place) for s, held in pairs for place in held.values()])
    for section, part, held in zip(request.sections, found, places, strict=True):
        for name, place in held.items():
            given = request, section, part.cast.experts, recipe.signature, place
            with problems.collected():
                part.numbers[name] = numbers(*given)
                part.steps[name] = recipe.step(part.numbers[name])
    problems.raise_any()
    return found


def _places(part: Part, naming: Naming) -> dict[str, Place]:
    """Where every merged tensor stands."""
    depths = _depths(part.donor, naming)
    return {
        name: Place(
            name,
            tuple(view.stored(name) for view in part.views),
            depths.get(name, 0.0),
        )
        for name in part.inventory.merged
    }


def unused(parts: list[Part], models: Models) -> dict[str, dict[str, str]]:
    """Model -> tensor that no part takes -> why."""
    seen: dict[Path, set[str]] = {folder: set() for folder in models}
    for view in (view for part in parts for view in (part.donor, *part.experts)):
        seen[view.path] |= {view.stored(name) for name in view}
    left = {
        str(folder): dict.fromkeys((n for n in model if n not in seen[folder]), UNUSED)
        for folder, model in models.items()
    }
    return {model: names for model, names in left.items() if names}


def _views(
    request: Request, recipe: Recipe, models: Models, tables: Tables, naming: Naming
) -> list[tuple[Section, list[View]]]:
    """What every section sees of its ingredients."""
    found = []
    starts: dict[str | None, int] = {}
    last = {section.module: section for section in request.sections}
    for section, cast in zip(request.sections, recipe.casts, strict=True):
        donor = models[section.ingredients[cast.donor].model.path]
        start = starts.get(section.module, 0)
        ends = (start == 0, section is last[section.module])
        views, length = [], 0
        for ingredient in section.ingredients:
            model = models[ingredient.model.path]
            own = tables.get(model.path, {})
            # A model that holds one table for two uses has both if the output has.
            untied = [name for name in own if name not in model and name in donor]
            names = _of_module(request, section, [*model, *untied])
            if request.is_sliced:
                layers = _layers(request, ingredient, names, naming)
                length = len(layers)
                stored = _sliced(names, layers, start, *ends, naming)
            else:
                stored = {name: name for name in names}
            seen = {name: own[at] for name, at in stored.items() if at in own}
            stored |= {name: table.stored.name for name, table in seen.items()}
            views.append(View(model, stored, seen))
        starts[section.module] = start + length
        found.append((section, views))
    return found


def _of_module(request: Request, section: Section, names: list[str]) -> list[str]:
    """The tensors of the section's module; a module alone may have any name."""
    if section.module is None:
        return names
    mine = [name for name in names if section.module in name.split(".")[:-1]]
    if mine or len(request.config.modules or {}) > 1:
        return mine
    return names


def _check_modules(request: Request, parts: list[Part]) -> None:
    """Every tensor belongs to one module, and every module has some."""
    if request.config.modules is None:
        return
    for section, part in zip(request.sections, parts, strict=True):
        if not len(part.donor):
            problem = f"no tensor of {part.donor.path} belongs to {section.module!r}."
            raise request.document.error(section.steps, problem)
    whole = parts[0].donor.model
    names = [name for part in parts for name in part.donor]
    if not request.is_sliced and sorted(names) != sorted(whole):
        lost = sorted(set(whole) - set(names)) or sorted(
            {n for n in names if names.count(n) > 1}
        )
        raise MergeError(
            f"{whole.path}: {lost[0]!r} belongs to no module, or to two; there are:"
            f" {', '.join(request.config.modules)}."
        )


def _layers(
    request: Request, ingredient: Ingredient, names: list[str], naming: Naming
) -> range:
    """The layers that a slice takes; all of them if it does not say."""
    found = naming.stacks(names)
    if len(found) != 1:
        listed = ", ".join(repr(stack) for stack in found) or "none"
        problem = (
            f"{ingredient.name}: slices need one stack of layers, found"
            f" {len(found)} ({listed}); 'layers' in a file of --names tells which."
        )
        raise request.document.error(ingredient.own.steps, problem)
    ((_, count, _),) = found.values()
    layers = range(count) if ingredient.layers is None else ingredient.layers
    if layers.stop > count:
        raise _beyond(request, ingredient, count)
    return layers


def _beyond(request: Request, ingredient: Ingredient, count: int) -> ConfigError:
    layers = ingredient.layers or range(0)
    return request.document.error(
        (*ingredient.own.steps, "layer_range"),
        f"{ingredient.name} has {count} layers; got [{layers.start}, {layers.stop}].",
    )


def _sliced(
    names: list[str],
    layers: range,
    start: int,
    is_first: bool,
    is_last: bool,
    naming: Naming,
) -> dict[str, str]:
    """Output name -> name in the model, of one slice that begins at layer `start`."""
    ((prefix, stack),) = naming.stacks(names).items()
    stored = {}
    for name in names:
        found = naming.layer(name)
        if found is None or found.stack != prefix:
            if is_first if naming.comes_first(name) else is_last:
                stored[name] = name
        elif (place := found.number - stack.first) in layers:
            digits = stack.digits(start + layers.index(place))
            new = found.renumbered(digits)
            if naming.layer(new) != found._replace(digits=digits):
                problem = f"{name!r} becomes {new!r}, which the rule does not match."
                raise naming.document.error(("layers",), problem)
            stored[new] = name
    return stored


def _depths(donor: View, naming: Naming) -> dict[str, float]:
    """Where the layer of each tensor stands in its slice, from 0 to 1."""
    places: dict[str, dict[str, int]] = {}
    known = naming.stacks(donor.model)
    for name in donor:
        found = naming.layer(donor.stored(name))
        if found is not None and found.stack in known:
            places.setdefault(found.stack, {})[name] = found.number
    depths = {}
    for indices in places.values():
        low, high = min(indices.values()), max(indices.values())
        for name, index in indices.items():
            depths[name] = (index - low) / max(1, high - low)
    return depths
