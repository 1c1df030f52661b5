"""A merge, settled before anything is written: every tensor has its rule."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mda_jax import engine, trees
from mda_jax._types import Role, WholeModel
from mda_jax.converters.formats import Spec, Tensors
from mda_jax.pipeline.adapters import open_model
from mda_jax.pipeline.arithmetic import Arithmetic, in_float32
from mda_jax.pipeline.chat import template
from mda_jax.pipeline.config import Request, load
from mda_jax.pipeline.dialect import Step
from mda_jax.pipeline.document import Document
from mda_jax.pipeline.embeddings import Tokens, tokens
from mda_jax.pipeline.errors import ConfigError
from mda_jax.pipeline.inventory import differing_copies
from mda_jax.pipeline.naming import Naming, Rules, load_naming
from mda_jax.pipeline.parts import Part, parts, unused
from mda_jax.pipeline.recipe import ELSEWHERE, Recipe, recipe
from mda_jax.pipeline.sources import Sources


class Job(NamedTuple):
    """All that is settled before anything is written."""

    config: dict[str, Any]
    recipe: Recipe
    models: dict[Path, Tensors]
    inputs: tuple[Path, ...]  # files and folders that are read
    parts: tuple[tuple[Part, Sources], ...]
    specs: dict[str, Spec]  # of the output
    plan: dict[str, trees.Layout]
    donor: Path  # of the other files
    dtype: str | None  # asked for
    is_sliced: bool
    unused: dict[str, dict[str, str]]  # model -> tensor that no part sees -> why
    tokens: Tokens
    template: str | None  # of chats, if it is to change
    naming: Naming

    @property
    def rules(self) -> dict[str, str]:
        """Tensor of the output -> what is done."""
        found: dict[str, str] = {}
        for part, _ in self.parts:
            found |= part.inventory.copied
            for name in part.steps:
                found[name] = _rule(self.recipe, part, self.plan[name].role)
        return {name: found[name] for name in self.specs}

    @property
    def arithmetic(self) -> list[str]:
        """The types that results are rounded to after every operation, or float32."""
        types = {str(part.rounded_to or "float32") for part, _ in self.parts}
        return sorted(types)

    @property
    def dropped(self) -> dict[str, dict[str, str]]:
        """Model -> tensor -> why the output lacks it."""
        found = {model: dict(names) for model, names in self.unused.items()}
        for part, _ in self.parts:
            for model, names in part.inventory.dropped.items():
                found[model] = found.get(model, {}) | names
        return {model: names for model, names in found.items() if names}

    @property
    def tied(self) -> dict[str, dict[str, str]]:
        """Model -> tensor -> the tied one that is used instead."""
        found: dict[str, dict[str, str]] = {}
        for part, _ in self.parts:
            for expert, ties in zip(part.experts, part.inventory.tied, strict=True):
                found[str(expert.path)] = found.get(str(expert.path), {}) | ties
        return {model: names for model, names in found.items() if names}

    @property
    def layers(self) -> int | None:
        """Layers of the output, where slices change that."""
        if not self.is_sliced:
            return None
        return max(stack.length for stack in self.naming.stacks(self.specs).values())


def settle(
    config: Document | str | os.PathLike[str] | Mapping[str, Any],
    layout: trees.Rules | None,
    arithmetic: Arithmetic = in_float32,
    names: Rules = MappingProxyType({}),
    *,
    truncate_embeddings: bool = False,
) -> Job:
    """Find everything that can be wrong before a tensor is read.

    Args:
      config: a YAML file in mergekit's schema, or its content as a dictionary, or
        parsed already.
      layout: rules for the roles of tensors; see `mda_jax.trees.layouts`.
      arithmetic: where results are rounded: `in_float32` or `as_mergekit`.
      names: rules for what names of tensors mean; see `naming.load_naming`.
      truncate_embeddings: cut all token tables to the shortest.

    Returns:
      The merge; only headers were read.

    Raises:
      ConfigError: the configuration makes no sense.
      FormatError: a weight file is damaged.
      MergeError: the models do not fit each other.
    """
    request, naming = load(config), load_naming(names)
    todo = recipe(request)
    models = {path: open_model(model) for path, model in request.models.items()}
    naming.check(models.values())
    seen = tokens(request, models, truncate=truncate_embeddings, naming=naming)
    found = parts(request, todo, models, seen.tables, naming)
    dtype = request.config.out_dtype or request.config.dtype
    pairs: list[tuple[Part, Sources]] = []
    specs: dict[str, Spec] = {}
    leaves: dict[str, jax.ShapeDtypeStruct] = {}
    for part in (each for one in found for each in arithmetic(request, todo, one)):
        of_output = {name: part.donor.on_disk(name) for name in part.donor}
        kept, working = part.inventory.merged, {}
        for name, spec in kept.items():
            if dtype is not None:
                of_output[name] = spec._replace(dtype=jnp.dtype(dtype))
            working[name] = _working(part, spec, of_output[name])
            leaves[name] = jax.ShapeDtypeStruct(spec.shape, of_output[name].dtype)
        tied, subtract = part.inventory.tied, part.cast.subtract
        sources = Sources(part.donor, part.experts, tied, subtract, working)
        pairs.append((part, sources))
        specs |= of_output
    plan = _layouts(leaves, layout, naming)
    return Job(
        request.document.data,
        todo,
        models,
        _inputs(request, naming),
        tuple(pairs),
        specs,
        plan,
        _config_of(request, found),
        dtype,
        request.is_sliced,
        unused(found, models),
        seen,
        template(request),
        naming,
    )


def _inputs(request: Request, naming: Naming) -> tuple[Path, ...]:
    """The models, their adapters, and what says how to merge them."""
    located = [*request.models.values(), *request.named.values()]
    paths = [path for each in located for path in each if path is not None]
    rules = [Path(document.source) for document in (request.document, naming.document)]
    return (*paths, *(file for file in rules if file.is_file()))


def _config_of(request: Request, parts: list[Part]) -> Path:
    """The model whose other files the output has: the base, or else the first."""
    bases = (s.ingredients[s.base] for s in request.sections if s.base is not None)
    base = next(bases, None)
    first = request.sections[0].ingredients[parts[0].cast.donor]
    return (first if base is None else base).folder


def _layouts(
    leaves: dict[str, jax.ShapeDtypeStruct],
    layout: trees.Rules | None,
    naming: Naming,
) -> dict[str, trees.Layout]:
    """Of every tensor; the roles of the naming are rules too."""
    if naming.roles is None:
        return trees.layouts(leaves, layout)
    if layout is not None:
        problem = "'roles' and another layout exclude each other; give one of them."
        raise naming.document.error(("roles",), problem)
    try:
        return trees.layouts(leaves, naming.roles)
    except ValueError as e:
        raise naming.document.error(("roles",), str(e)) from e


def _working(part: Part, read: Spec, written: Spec) -> np.dtype:
    """Type in which the engine gives a tensor back: no rounding but the last."""
    same = read.dtype == written.dtype and read.dtype.itemsize <= 4
    keeps = same and part.rounded_to is None
    return read.dtype if keeps else np.dtype(np.float32)


def surveyed(
    job: Job, read: Callable[[Sources, str], tuple[Any, Any]] = Sources.read
) -> dict[str, Step]:
    """What happens to every tensor; a whole-model method sees all of them for that.

    Args:
      job: the merge.
      read: gives the base's and the experts' whole tensor, wherever they are to be.

    Returns:
      Tensor -> its step.

    Raises:
      ConfigError: its numbers differ from tensor to tensor.
    """
    steps = {name: step for part, _ in job.parts for name, step in part.steps.items()}
    whole = {id(s): s for s in steps.values() if isinstance(s.method, WholeModel)}
    if not whole:
        return steps
    first, *others = whole.values()
    if others:
        raise ConfigError(
            f"{job.recipe.method} sees the whole model: give each parameter one value."
        )
    owner = {name: sources for part, sources in job.parts for name in part.steps}
    stage = engine.settle(
        {name: sources.leaf(name) for name, sources in owner.items()},
        lambda name: read(owner[name], name),
        first.method,
        layout=lambda leaves: {name: job.plan[name] for name in leaves},
    )
    return dict.fromkeys(steps, Step(stage))


def doubts(job: Job) -> list[str]:
    """What deserves a second look, one line each; reads tensors that are copied."""
    found = list(job.tokens.warnings)
    if job.config.get("chat_template") == "auto" and job.template is None:
        found.append("'chat_template': auto found none; no model has a chat template.")
    for part, _ in job.parts:
        differing = differing_copies(part.donor, part.experts, part.inventory.copied)
        if differing:
            found.append(
                f"{len(differing)} integer tensors differ between the models,"
                f" {differing[0]!r} first; the output has those of {part.donor.path}."
            )
    statistics = [n for n, lay in job.plan.items() if lay.role is Role.BUFFER]
    if statistics:
        found.append(
            f"{len(statistics)} running statistics were merged like weights,"
            f" {statistics[0]!r} first; re-estimate them on data."
        )
    read = [spec for part, _ in job.parts for spec in part.inventory.merged.values()]
    if wide := sum(spec.dtype.itemsize > 4 for spec in read):
        found.append(f"{wide} float64 tensors were merged in float32 arithmetic.")
    return found


def _rule(todo: Recipe, part: Part, role: Role) -> str:
    if todo.elementwise == ELSEWHERE and role in todo.elementwise:
        return f"entry by entry: not a matrix ({role.value})"
    if part.rounded_to is not None:
        return f"merged by {todo.method}, all in {part.rounded_to}"
    return f"merged by {todo.method}"
