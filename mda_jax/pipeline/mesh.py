"""The merged tensors of a model on a mesh of devices, one after the other.

Tensors go from the files straight to where they stay: every process reads its own parts
alone. Where a method treats every entry by itself, no number leaves its device; where
to trim a tensor is found beforehand, by one process for each, as it is read.
"""

import math
from collections.abc import Callable, Container, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mda_jax import engine, trees
from mda_jax._types import Role
from mda_jax.converters.formats import place
from mda_jax.pipeline import hosts
from mda_jax.pipeline.errors import ConfigError
from mda_jax.pipeline.recipe import Step
from mda_jax.pipeline.sources import Piece, Sources
from mda_jax.pipeline.streaming import Chunk, Where, batch_of, by_step, entries_of
from mda_jax.pipeline.trim import Cut
from mda_jax.pipeline.views import View


LEAST = 1 << 10  # entries that a device holds of a tensor that is spread over several

Pair: TypeAlias = tuple[jax.Array, tuple[jax.Array, ...]]  # the base's, the experts'


class Merged(NamedTuple):
    """A tensor of the output, and what it was made of, all on one mesh."""

    name: str
    array: jax.Array  # in the type of `Sources.dtypes`
    base: jax.Array  # zero where the method knows none
    experts: tuple[jax.Array, ...]


class Trace(NamedTuple):
    """What is known of a merged tensor: numbers, the same in every process."""

    finite: Any  # whether all entries are
    changed: Any  # share of entries that differ from the donor's
    delta_norm: Any  # of the differences
    conflicts: Any  # share of entries about whose sign experts disagree


def spread(shape: tuple[int, ...], mesh: Mesh) -> NamedSharding:
    """How a tensor lies on a mesh, of which each axis divides the longest of its own.

    Only where that is even, and leaves every device `LEAST` entries; else the devices
    along that axis of the mesh hold the same.

    >>> mesh = jax.make_mesh((1,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    >>> spread((64, 128), mesh).spec, spread((3,), mesh).spec
    (P(None, 'x'), P(None,))
    """
    left = list(shape)
    axes: list[tuple[str, ...]] = [() for _ in shape]
    for axis, count in mesh.shape.items():
        even = [i for i, size in enumerate(left) if size % count == 0]
        if even and math.prod(left) >= count * LEAST:
            longest = max(even, key=left.__getitem__)
            left[longest] //= count
            axes[longest] = (*axes[longest], axis)
    return NamedSharding(mesh, PartitionSpec(*(names or None for names in axes)))


def placed(view: View, name: str, mesh: Mesh, dtype: np.dtype | None = None) -> Any:
    """One tensor of a model on a mesh, float64 as float32; each process has its parts.

    Args:
      view: the model.
      name: of the tensor.
      mesh: of devices.
      dtype: in which it is to be; its own if not given.
    """
    spec = view.spec(name)
    wanted = jax.dtypes.canonicalize_dtype(spec.dtype if dtype is None else dtype)
    how = {name: spread(spec.shape, mesh)}
    return place(view, how, dtypes={name: wanted}, names=[name])[name]


def read_on(mesh: Mesh, sources: Sources, name: str) -> Pair:
    """`Sources.read` onto a mesh; processes go on when each has its parts."""
    leaf, held = sources.leaf(name), partial(sources.held, name=name)
    with hosts.together():
        rows = [placed(e, held(i), mesh) for i, e in enumerate(sources.experts)]
        if sources.subtract:
            return placed(sources.donor, name, mesh, leaf.dtype), tuple(rows)
    zeros = jnp.zeros(leaf.shape, leaf.dtype, device=spread(leaf.shape, mesh))
    return zeros, tuple(rows)


def merged_on(
    mesh: Mesh,
    sources: Sources,
    steps: Mapping[str, Step],
    elementwise: Container[Role],
    plan: Mapping[str, trees.Layout],
    key: jax.Array,
    wanted: Container[str],
) -> Iterator[Merged]:
    """Like `streaming.merged`, of tensors whole; called alike in every process.

    Args:
      mesh: of all devices of all processes.
      sources: as for `streaming.merged`, and so are those that follow.
      steps: likewise.
      elementwise: likewise.
      plan: likewise.
      key: the same on every mesh.
      wanted: the tensors to merge now.

    Yields:
      The merged tensors.
    """
    read = partial(read_on, mesh, sources)
    for step, names in by_step(steps):
        flat = [n for n in names if plan[n].role in elementwise and n in wanted]
        cuts = _cuts(sources, step, flat)
        for name in flat:
            leaf = sources.leaf(name)
            yield from _streamed(
                {name: leaf},
                read,
                partial(_trimmed, sources, cuts),
                step.method,
                layout=lambda leaves: {
                    n: one_weight(x.shape) for n, x in leaves.items()
                },
                batch=1,
            )
        whole = {n: plan[n] for n in names if plan[n].role not in elementwise}
        leaves = {name: leaf_on(mesh, sources.leaf(name)) for name in whole}
        for bucket in trees.buckets(leaves, whole):
            yield from _streamed(
                {name: leaves[name] for name in bucket.names if name in wanted},
                read,
                lambda name, *pair: pair,
                step.method,
                key=key,
                layout=lambda leaves: {name: plan[name] for name in leaves},
                batch=batch_of(bucket, entries_of(sources)),
                among=bucket.names,
            )


def mesh_of(axes: Mapping[str, int]) -> Mesh:
    """The mesh of all devices of all processes.

    Args:
      axes: name -> size; the product is the number of devices.

    Raises:
      ConfigError: there are more devices, or fewer.
    """
    wanted, count = math.prod(axes.values()), jax.device_count()
    if wanted != count:
        sizes, kind = "x".join(map(str, axes.values())), jax.default_backend()
        advice = "Give a mesh of all"
        if kind == "cpu":
            advice += "; XLA_FLAGS=--xla_force_host_platform_device_count=N makes more"
        problem = f"mesh {sizes} has {wanted} places, but there are {count} devices"
        raise ConfigError(f"{problem} ({kind}). {advice}.")
    auto = (AxisType.Auto,) * len(axes)
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=auto)


def on_mesh(mesh: Mesh) -> tuple[Where, dict[str, int]]:
    """What merges on a mesh of devices of this process, and the axes of the mesh.

    Raises:
      ConfigError: devices are of other processes.
    """
    if jax.process_count() > 1:
        problem = "several processes write one folder of Orbax: give --out-format orbax"
        raise ConfigError(f"{problem}.")
    return Where(partial(read_on, mesh), partial(_chunks, mesh)), dict(mesh.shape)


def _chunks(mesh: Mesh, *what: Any) -> Iterator[Chunk]:
    """`merged_on`, every tensor fetched."""
    for name, array, *_ in merged_on(mesh, *what):
        entries = np.asarray(array).reshape(-1)
        yield Piece(name, slice(0, entries.size)), entries


def finished(
    merged: Merged, sources: Sources, mesh: Mesh, dtype: np.dtype
) -> tuple[jax.Array, Trace]:
    """A merged tensor in its last type, where it is to lie, and what is known of it.

    Args:
      merged: the tensor.
      sources: the models that it was made of.
      mesh: where it is.
      dtype: of the output.
    """
    experts, donor = merged.experts, merged.base
    if not sources.subtract:
        is_donor = (expert is sources.donor for expert in sources.experts)
        donor = experts[list(is_donor).index(True)]
    how = {"dtype": dtype, "sharding": spread(merged.array.shape, mesh)}
    array, trace = _finished(merged.array, donor, merged.base, experts, **how)
    return array, jax.device_get(trace)


def all_finite(arrays: tuple[jax.Array, ...]) -> bool:
    """Whether no entry is NaN or infinite."""
    return bool(_all_finite(arrays))


def _streamed(
    leaves: Mapping[str, jax.ShapeDtypeStruct],
    read: Callable[[str], Pair],
    changed: Callable[..., Pair],
    method: Any,
    **options: Any,
) -> Iterator[Merged]:
    """What the engine makes of tensors that are changed first, and what was read."""
    held: dict[str, Pair] = {}

    def note(name: str) -> Pair:
        held[name] = read(name)
        return changed(name, *held[name])

    for name, array in engine.stream(leaves, note, method, **options):
        yield Merged(name, array, *held.pop(name))


def leaf_on(mesh: Mesh, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """A tensor of that kind, spread over a mesh."""
    place = spread(leaf.shape, mesh)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)


def one_weight(shape: tuple[int, ...]) -> trees.Layout:
    """One weight that is no matrix, its axes as they are."""
    axes = tuple(range(len(shape)))
    return trees.Layout(Role.VECTOR, out=axes[:1], into=axes[1:])


def _cuts(sources: Sources, step: Step, names: list[str]) -> dict[str, np.ndarray]:
    """Where each expert is trimmed, if it is, as numbers: `[k, 5]`.

    Each process finds it for some tensors, from all their entries, and has it for all.
    """
    if step.trim is None:
        return {}
    cuts = np.zeros((len(names), len(sources.experts), 5))
    with hosts.together():
        for i, name in hosts.share([*enumerate(names)]):
            if sources.leaf(name).size:
                cuts[i] = [_numbers(cut) for cut in sources.cuts(name, step.trim)]
    return dict(zip(names, hosts.summed(cuts), strict=True))


def _numbers(cut: Cut) -> list[float]:
    least, most, factor = cut
    bounds = least.magnitude, least.last, most.magnitude, most.last
    return [*map(float, bounds), factor]


class _Bound(NamedTuple):
    """`trim.Bound`, its position by the axes of the tensor."""

    magnitude: Any
    last: tuple[Any, ...]

    def reached(self, delta: jax.Array) -> jax.Array:
        """Which entries of a whole delta are among the largest."""
        sizes, early = jnp.abs(delta), jnp.ones(delta.shape, bool)
        for axis, last in reversed([*enumerate(self.last)]):
            place = jax.lax.broadcasted_iota(jnp.int32, delta.shape, axis)
            early = (place < last) | ((place == last) & early)
        return (sizes > self.magnitude) | ((sizes == self.magnitude) & early)


def _bound(numbers: np.ndarray, shape: tuple[int, ...]) -> _Bound:
    magnitude, last = numbers
    place = np.unravel_index(int(last), shape) if last >= 0 else (-1,) * len(shape)
    return _Bound(np.float32(magnitude), tuple(map(np.int32, place)))


def _trimmed(
    sources: Sources,
    cuts: Mapping[str, np.ndarray],
    name: str,
    base: jax.Array,
    experts: tuple[jax.Array, ...],
) -> Pair:
    """The experts changed so that their deltas to the base are the trimmed deltas."""
    if name not in cuts:
        return base, experts
    if not all_finite(experts):
        raise sources.not_finite(name)  # else it might be voted out
    trimmed = []
    for expert, numbers in zip(experts, cuts[name], strict=True):
        least, most = (_bound(numbers[i : i + 2], base.shape) for i in (0, 2))
        factor = np.float32(numbers[4])
        trimmed.append(_trimmed_one(base, expert, least, most, factor))
    return base, tuple(trimmed)


@jax.jit
def _trimmed_one(
    base: jax.Array, expert: jax.Array, least: Any, most: Any, factor: Any
) -> jax.Array:
    low, high = base.astype(jnp.float32), expert.astype(jnp.float32)
    delta = high - low
    keeps = least.reached(delta) & ~most.reached(delta)
    stays = jnp.where(factor == 1, high, low + factor * delta)
    return jnp.where(keeps, stays, low)


@jax.jit
def _all_finite(arrays: tuple[jax.Array, ...]) -> jax.Array:
    return jnp.stack([jnp.isfinite(x).all() for x in arrays]).all()


@partial(jax.jit, static_argnames=("dtype", "sharding"))
def _finished(
    array: jax.Array,
    donor: jax.Array,
    base: jax.Array,
    experts: tuple[jax.Array, ...],
    *,
    dtype: np.dtype,
    sharding: NamedSharding,
) -> tuple[jax.Array, Trace]:
    array = jax.lax.with_sharding_constraint(array.astype(dtype), sharding)
    wide = array.astype(jnp.float32)
    change = wide - donor.astype(jnp.float32)
    up, down = jnp.zeros((2, *array.shape), bool)
    for expert in experts:
        delta = expert.astype(jnp.float32) - base.astype(jnp.float32)
        up, down = up | (delta > 0), down | (delta < 0)
    trace = Trace(
        jnp.isfinite(wide).all(),
        _share(change != 0),
        jnp.sqrt(jnp.square(change).sum()),
        _share(up & down),
    )
    everywhere = NamedSharding(sharding.mesh, PartitionSpec())
    return array, jax.lax.with_sharding_constraint(trace, everywhere)


def _share(mask: jax.Array) -> jax.Array:
    rows = mask.reshape(*mask.shape[:-1], -1).sum(-1, dtype=jnp.int32)
    return rows.sum(dtype=jnp.float32) / max(1, mask.size)
