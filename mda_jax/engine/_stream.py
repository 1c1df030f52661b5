"""Bucket by bucket, chunk by chunk: the one driver behind `merge` and `stream`."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from mda_jax import _check, combine, trees
from mda_jax._types import Stage, Survey, WholeModel
from mda_jax.engine._kernel import merge_chunk, plus, settled, surveyed
from mda_jax.engine._mesh import Way, alike, mesh_of, way
from mda_jax.trees import Bucket, Layout


Leaves: TypeAlias = Mapping[str, Any]
Method: TypeAlias = Stage | WholeModel
Read: TypeAlias = Callable[[str], tuple[Any, Any]]


class Place(NamedTuple):
    """Where a leaf that is some rows of a larger weight belongs."""

    weight: str  # its name
    first_row: int  # of the leaf in the weight


class Job(NamedTuple):
    """What the driver needs to know of every leaf, and how to get it."""

    leaves: Leaves
    read: Read
    plan: Mapping[str, Any]  # a layout of each; None: as it lies
    extras: Mapping[str, Any] = MappingProxyType({})
    places: Mapping[str, Place] = MappingProxyType({})
    among: tuple[str, ...] = ()
    mesh: Any = None

    def place(self, name: str) -> tuple[np.uint32, np.int32]:
        """The seed of the weight that a leaf belongs to, and the leaf's first row."""
        weight, first_row = self.places.get(name, (name, 0))
        return trees.seed(weight), np.int32(first_row)


def stream(
    leaves: Leaves,
    read: Read,
    method: Method,
    *,
    key: Any = None,
    layout: trees.Rules | None = None,
    batch: int = 8,
    among: tuple[str, ...] = (),
    places: Mapping[str, Place] = MappingProxyType({}),
) -> Iterator[tuple[str, Any]]:
    """Merge leaf by leaf, holding no more than one chunk of them.

    Args:
      leaves: `{name: ShapeDtypeStruct}` of the base (arrays serve too).
      read: `name -> (base leaf, [expert leaves])`, NumPy or JAX, or one array
        `[k, *shape]` of the experts' leaves; called once a leaf, and once more for
        each survey of a `WholeModel`.
      method: a stage `[k, *d] -> [j, *d]`, or a `WholeModel`; see `mda_jax.methods`.
      key: a PRNG key; only random stages need it.
      layout: rules as in `trees.layouts`.
      batch: weights of one shape processed at once; bounds memory, not the result.
      among: the names of a bucket, if the leaves are some of it: each then comes out as
        if all were merged, to the last bit.
      places: of the leaves that are some rows of a larger weight. The method is to be
        one that may be applied to rows; see `combine.by_rows`.

    Returns:
      An iterator over `(name, merged leaf)` in the base's dtype, in bucket order.
      Leaves that are not floating come first, as the base has them.

    Raises:
      ValueError: a rule does not fit, or `read` gives other shapes than `leaves`
        announces.
    """
    _check.arrays("stream", "leaves", leaves)
    _check.at_least_one("stream", batch=batch)
    _check.typed_key("stream", key)
    checked = partial(_checked, leaves, read)
    plan = trees.layouts(leaves, layout)
    mesh = mesh_of(leaves.values())
    job = Job(leaves, checked, plan, places=places, among=among, mesh=mesh)
    return run(job, method, key, batch)


def settle(
    leaves: Leaves,
    read: Read,
    method: Method,
    *,
    layout: trees.Rules | None = None,
) -> Stage:
    """The stage of a whole-model method, from passes over all leaves.

    Args:
      leaves: as for `stream`: of the whole model.
      read: as for `stream`; called once a leaf for each survey.
      method: a stage, which is returned as it is, or a `WholeModel`.
      layout: rules as in `trees.layouts`.

    Returns:
      A stage for `stream`, which may then go through the leaves in parts.
    """
    job = Job(leaves, partial(_checked, leaves, read), trees.layouts(leaves, layout))
    return _settled(job, method, None, trees.buckets(job.leaves, job.plan))


class Workspace(NamedTuple):
    """What one call of the kernel needs, as its compiler says."""

    arguments: int  # bytes held
    temporary: int
    results: int
    operations: float  # on numbers; those of LAPACK are not counted
    traffic: float  # bytes to and from memory


def workspaces(
    leaves: Leaves,
    read: Read,
    method: Method,
    *,
    layout: trees.Rules | None = None,
    batch: int = 8,
) -> list[Workspace]:
    """What `stream` would hold at once, for every kind of leaf; compiles, runs nothing.

    Args:
      leaves: as for `stream`.
      read: as for `stream`, but a `ShapeDtypeStruct` in place of every array.
      method: as for `stream`.
      layout: as for `stream`.
      batch: as for `stream`.

    Returns:
      For each kind of leaf one of every survey, and one of the merge.
    """
    plan, key, workspaces = trees.layouts(leaves, layout), jax.random.key(0), []
    for bucket in trees.buckets(leaves, plan):
        name = bucket.names[0]
        view = partial(seen, layout=plan[name], shape=leaves[name].shape)
        pair = jax.eval_shape(view, _checked(leaves, read, name))
        place = np.uint32(0), np.int32(0)
        stage: Any = method
        if isinstance(method, WholeModel):
            found: tuple = ()
            for survey in method.surveys:
                arrays = *pair, key, *place
                lowered = surveyed.lower(survey, found, *arrays, **_static(bucket))
                workspaces.append(_workspace(lowered))
                found = (*found, lowered.out_info)
            stage = jax.eval_shape(settled, method, found)
        how = way(bucket, stage, None, batch)
        _, size = _chunks(bucket.names, how.leaves)[0]
        call = _call(stage, key, bucket, [place] * size, [pair] * size, how)
        workspaces.append(_workspace(call(merge_chunk.lower, (None,) * size)))
    return workspaces


def _workspace(lowered: Any) -> Workspace:
    compiled = lowered.compile()
    held, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    return Workspace(
        held.argument_size_in_bytes,
        held.temp_size_in_bytes,
        held.output_size_in_bytes,
        cost.get("flops", 0.0),
        cost.get("bytes accessed", 0.0),
    )


def run(job: Job, method: Method, key: Any, batch: int) -> Iterator[tuple[str, Any]]:
    """Every leaf of a job, merged; those that are not floating as the base has them."""
    for name, leaf in job.leaves.items():
        if not _check.is_merged(leaf):
            yield name, job.read(name)[0]
    buckets = trees.buckets(job.leaves, job.plan)
    if not buckets:
        return
    stage = _settled(job, method, key, buckets)
    if job.mesh is not None and combine.is_entrywise(stage):
        buckets = trees.as_they_lie(job.leaves)
        job = job._replace(plan=dict.fromkeys(job.plan), extras={}, among=())
    yield from _run(job, stage, key, batch, buckets)


def _run(
    job: Job, stage: Stage, key: Any, batch: int, buckets: Sequence[Bucket]
) -> Iterator[tuple[str, Any]]:
    for bucket in buckets:
        how = way(bucket, stage, job.mesh, batch)
        for names in _together(job.among or bucket.names, job.extras, how):
            for chunk, size in _chunks(names, how.leaves):
                filled = _filled(chunk, job.leaves)
                if not filled:
                    continue
                merged = _merge_names(job, stage, key, bucket, filled, size, how)
                for name, leaf in zip(chunk, merged, strict=False):
                    if name in job.leaves:
                        yield name, leaf


def _settled(job: Job, method: Method, key: Any, buckets: Sequence[Bucket]) -> Stage:
    """The stage of a whole-model method, after its surveys; a stage is one already."""
    if not isinstance(method, WholeModel):
        return method
    leaves = [(name, bucket) for bucket in buckets for name in bucket.names]
    found: tuple = ()
    for survey in method.surveys:
        each = (_surveyed(job, survey, found, key, *leaf) for leaf in leaves)
        found = (*found, _summed(each))
    return settled(method, found)


def _summed(each: Iterator[Any]) -> Any:
    """The sum of what is found, one leaf in memory; if it is nothing, of one leaf."""
    total = jax.block_until_ready(next(each))
    if jax.tree.leaves(total):
        for found in each:
            total = jax.block_until_ready(plus(total, found))
    return total


def _surveyed(
    job: Job, survey: Survey, found: tuple, key: Any, name: str, bucket: Bucket
) -> Any:
    """What a survey finds in one leaf."""
    arrays = *_seen(job, name, job.read(name)), key, *job.place(name)
    return surveyed(survey, found, *arrays, **_static(bucket))


def _static(bucket: Bucket) -> dict[str, Any]:
    """What the kernels are compiled for."""
    return {"role": bucket.role, "shape": bucket.shape, "stacked": bucket.stacked}


def _seen(job: Job, name: str, read: tuple[Any, Any]) -> tuple[Any, Any]:
    """The leaf of the base and those of the experts, in canonical view."""
    pair: tuple = seen(read, job.plan[name], job.leaves[name].shape)
    return pair


def seen(x: Any, layout: Layout | None, shape: tuple[int, ...]) -> Any:
    """A tree of arrays that end in a leaf's axes, in canonical view.

    The stack axis is left out where nothing is stacked, so that a leaf which already
    is canonical passes as it is.
    """
    if layout is None or trees.is_canonical(shape, layout):
        return x
    arrays = jax.tree.leaves(x)
    if all(isinstance(each, np.ndarray) for each in arrays):
        return _views(x, layout)
    return _compiled_views(x, layout)


def _merge_names(
    job: Job,
    stage: Stage,
    key: Any,
    bucket: Bucket,
    names: tuple[str, ...],
    size: int,
    how: Way,
) -> Iterator[Any]:
    """The merged leaves of one chunk."""
    read = {name: job.read(name) for name in dict.fromkeys(names)}
    views = {name: _seen(job, name, pair) for name, pair in read.items()}
    pairs = [views[name] for name in names]
    extras = [job.extras.get(name) for name in names]
    places = [job.place(name) for name in names]
    call = _call(stage, key, bucket, _padded(places, size), _padded(pairs, size), how)
    merged = call(merge_chunk, tuple(_padded(extras, size)))
    for name, leaf in zip(names, merged, strict=False):
        found = _unseen(leaf, job.plan[name], job.leaves[name].shape)
        yield found if how.mesh is None else alike(read[name][0], found)


def _call(
    stage: Stage,
    key: Any,
    bucket: Bucket,
    places: list,
    pairs: list,
    how: Way,
) -> Callable[..., Any]:
    """How the kernel is called on so many leaves of a bucket, given its extras."""
    bases, experts = zip(*pairs, strict=True)
    seeds, first_rows = map(np.asarray, zip(*places, strict=True))

    def call(kernel: Callable[..., Any], extras: tuple) -> Any:
        arrays = bases, experts, extras, key, seeds, first_rows
        return kernel(stage, *arrays, **_static(bucket), way=how)

    return call


def _checked(leaves: Leaves, read: Read, name: str) -> tuple[Any, Any]:
    base, experts = read(name)
    want = {name: leaves[name]}
    _check.same_leaves("stream", "base", want, {name: base})
    if not isinstance(experts, Sequence):
        k = _check.stacked("stream", {name: experts})
        _check.same_leaves("stream", "experts", want, {name: experts}, k)
        return base, experts
    _check.some_experts("stream", len(experts))
    for i, expert in enumerate(experts):
        _check.same_leaves("stream", f"experts[{i}]", want, {name: expert})
    return base, tuple(experts)


def _together(
    names: tuple[str, ...], extras: Mapping[str, Any], how: Way
) -> list[tuple[str, ...]]:
    """Names whose extras can be stacked, and whose leaves lie alike on a mesh.

    How a leaf lies is not known where it is traced. Those that are handed to devices
    together are of one kind.
    """
    groups = defaultdict(list)
    for name in names:
        arrays, structure = jax.tree.flatten(extras.get(name))
        kind = trees.kind(name) if how.whole else ""
        shapes = tuple((x.shape, x.dtype) for x in arrays)
        groups[kind, structure, shapes].append(name)
    return [tuple(group) for group in groups.values()]


def _chunks(names: tuple[str, ...], most: int) -> list[tuple[tuple[str, ...], int]]:
    """As few chunks as `most` names allow, of one size; the last may lack a few."""
    count = -(-len(names) // most)
    size = -(-len(names) // count)
    return [(names[i : i + size], size) for i in range(0, len(names), size)]


def _filled(names: tuple[str, ...], leaves: Leaves) -> tuple[str, ...]:
    """The names, with one that is a leaf in the place of each that is none."""
    present = [name for name in names if name in leaves]
    return tuple(n if n in leaves else present[0] for n in names if present)


def _padded(items: list, size: int) -> list:
    return items + items[-1:] * (size - len(items))


def _views(x: Any, layout: Layout) -> Any:
    viewed = jax.tree.map(lambda each: trees.view(each, layout), x)
    return viewed if layout.stack else jax.tree.map(lambda each: each[0], viewed)


_compiled_views = partial(jax.jit, static_argnames="layout")(_views)


def _unseen(x: Any, layout: Layout | None, shape: tuple[int, ...]) -> Any:
    if layout is None or trees.is_canonical(shape, layout):
        return x
    return _compiled_unview(x, layout, shape)


@partial(jax.jit, static_argnames=("layout", "shape"))
def _compiled_unview(x: Any, layout: Layout, shape: tuple[int, ...]) -> Any:
    return trees.unview(x, layout, shape)
