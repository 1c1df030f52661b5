"""What a merge on a mesh is to cost, told from headers: nothing is read or merged."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from mda_jax import engine, trees
from mda_jax._types import WholeModel
from mda_jax.pipeline.job import Job, settle
from mda_jax.pipeline.mesh import leaf_on, one_weight
from mda_jax.pipeline.naming import Rules
from mda_jax.pipeline.parts import Part
from mda_jax.pipeline.recipe import Step
from mda_jax.pipeline.sources import Sources
from mda_jax.pipeline.streaming import batch_of, by_step, entries_of


class Row(NamedTuple):
    """Tensors that are merged alike.

    Attributes:
      tensors: their names, with `*` for numbers, and how many.
      shape: of one.
      spread: for each of its axes, those of the mesh that divide it: `x*y`, or nothing.
      whole: whether matrices go whole to devices, or are merged where their parts are.
      calls: of the program, one after the other.
      cost: of a call.
    """

    tensors: str
    shape: tuple[int, ...]
    spread: tuple[str, ...]
    whole: bool
    calls: int
    cost: engine.Cost


class Estimate(NamedTuple):
    """What a merge is to cost on each device of a mesh: estimates."""

    method: str
    rows: list[Row]

    def seconds(self, chip: engine.Accelerator) -> float:
        """The least time that the peaks of an accelerator allow."""
        return sum(row.calls * chip.seconds(row.cost) for row in self.rows)

    @property
    def held(self) -> int:
        """The most bytes that a device holds: for a call, and of the merged model."""
        merged = sum(row.calls * row.cost.results for row in self.rows)
        return merged + max((row.cost.held for row in self.rows), default=0)


def estimate(
    config: str | os.PathLike[str] | Mapping[str, Any],
    mesh: Mesh,
    *,
    layout: trees.Rules | None = None,
    names: Rules = MappingProxyType({}),
) -> Estimate:
    """Estimate a merge on a mesh, whose devices may be fake.

    Args:
      config: a YAML file in mergekit's schema, or its content as a dictionary.
      mesh: over which tensors are spread as `run` spreads them.
      layout: rules for the roles of tensors; see `mda_jax.trees.layouts`.
      names: rules for what names of tensors mean, as of `run`.

    Returns:
      The programs that the merge calls, compiled and counted. Files, and what is done
      before the merge on the hosts, such as finding where to trim, are not counted.

    Raises:
      ConfigError: the configuration makes no sense.
      FormatError: a weight file is damaged.
      MergeError: the models do not fit each other.
    """
    job = settle(config, layout, names=names)
    rows = (
        row for part, sources in job.parts for row in _rows(job, part, sources, mesh)
    )
    return Estimate(job.recipe.method, list(rows))


def _rows(job: Job, part: Part, sources: Sources, mesh: Mesh) -> Iterator[Row]:
    for step, names in by_step(part.steps):
        leaves = {name: leaf_on(mesh, sources.leaf(name)) for name in names}
        plan = {
            name: one_weight(leaf.shape)
            if job.plan[name].role in part.elementwise
            else job.plan[name]
            for name, leaf in leaves.items()
        }
        if isinstance(step.method, WholeModel):
            yield _row(sources, step, leaves, plan, False, 1)
            continue
        for bucket in trees.buckets(leaves, plan):
            batch = batch_of(bucket, entries_of(sources))
            way = engine.way(bucket, step.method, mesh.abstract_mesh, batch)
            for kind in _kinds(bucket.names):
                calls = -(-len(kind) // way.leaves)
                some = {name: leaves[name] for name in kind[: way.leaves]}
                row = _row(sources, step, some, plan, way.whole, calls, batch)
                yield row._replace(tensors=_template(kind))


def _row(
    sources: Sources,
    step: Step,
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    plan: Mapping[str, trees.Layout],
    whole: bool,
    calls: int,
    batch: int = 1,
) -> Row:
    """Of one call of the program, for so many leaves."""
    count = len(sources.experts)
    types = {name: sources.types(name) for name in leaves}
    experts = [
        {n: x.update(dtype=types[n][i]) for n, x in leaves.items()}
        for i in range(count)
    ]
    options: dict[str, Any] = {
        "key": jax.random.key(0),
        "layout": lambda leaves: {name: plan[name] for name in leaves},
        "batch": batch,
    }
    merge = partial(engine.merge, **options)
    found = engine.cost(merge, dict(leaves), experts, step.method)
    first = next(iter(leaves.values()))
    spec = tuple(map(_axes, first.sharding.spec))
    return Row(_template(tuple(leaves)), first.shape, spec, whole, calls, found)


def _axes(axes: Any) -> str:
    """The axes of a mesh that divide one of an array's.

    >>> _axes(("x", "y")), _axes("x"), _axes(None)
    ('x*y', 'x', '')
    """
    return "*".join((axes,) if isinstance(axes, str) else axes or ())


def _kinds(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Names of one kind, together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(trees.kind(name), []).append(name)
    return [tuple(group) for group in groups.values()]


def _template(names: tuple[str, ...]) -> str:
    """The names, with `*` for numbers, and how many.

    >>> _template(("h.0.weight", "h.1.weight")), _template(("h.0.weight",))
    ('h.*.weight (2)', 'h.0.weight')
    """
    kinds = list(dict.fromkeys(map(trees.kind, names)))
    if len(names) == 1:
        return names[0]
    return f"{kinds[0]}{' and others' if kinds[1:] else ''} ({len(names)})"
