"""Meshes: which weights are handed whole to a device, and where results lie."""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.shard_alike import shard_alike
from jax.experimental.xla_metadata import set_xla_metadata
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

from mda_jax import combine
from mda_jax._types import Role, Stage
from mda_jax.trees import Bucket


WHOLE = 1 << 28
"""Bytes in float32 of the largest matrix that a device is handed whole."""

_FREE = PartitionSpec.UNCONSTRAINED
_groups = itertools.count()


class Way(NamedTuple):
    """How the weights of a bucket are merged.

    Attributes:
      leaves: in one call.
      weights: in flight at once, on each device.
      mesh: over which the arrays are spread; None for one device.
      whole: whether each weight is handed to one device of the mesh; else it is merged
        where its parts stand.
    """

    leaves: int
    weights: int
    mesh: AbstractMesh | None = None
    whole: bool = False


def way(bucket: Bucket, stage: Stage, mesh: AbstractMesh | None, batch: int) -> Way:
    """Chosen by the method, the role and the size of the weights.

    Linear maps of a method that may mix their rows are handed whole to the devices of a
    mesh, some to each, if they have at most `WHOLE` bytes. All else stays where it is:
    what treats every row by itself needs no other part of a weight than its own, and of
    larger matrices XLA multiplies the parts.
    """
    stack, *shape = bucket.shape
    if mesh is None:
        return Way(max(1, batch // stack), batch)
    room = min(batch, WHOLE // (4 * math.prod(shape)))
    is_matrix = bucket.role in (Role.MATRIX, Role.CONV)
    if room and is_matrix and combine.by_rows(stage) is None:
        devices = math.prod(mesh.shape[axis] for axis in _axes(mesh))
        return Way(max(1, room * devices // stack), room, mesh, whole=True)
    return Way(1, max(1, room), mesh)


def mesh_of(leaves: Iterable[Any]) -> AbstractMesh | None:
    """The mesh over which XLA spreads arrays; None where that is one device.

    Axes that are manual, inside a `shard_map`, are not XLA's.

    Args:
      leaves: arrays, traced ones too, or `ShapeDtypeStruct`s with shardings.
    """
    for leaf in leaves:
        mesh: Any = getattr(_sharding(leaf), "mesh", None)
        if mesh is not None and any(mesh.shape[axis] > 1 for axis in _axes(mesh)):
            return mesh.abstract_mesh
    return None


def in_auto_mode(f: Callable[..., Any], like: Any, *args: Any) -> Any:
    """`f(*args)`, a tree like `like`; on an explicit mesh, XLA places what is between.

    The results then have the shardings of `like`.
    """
    found = map(_sharding, jax.tree.leaves(args))
    mesh = next((x.mesh for x in found if _is_explicit(x)), None)
    if mesh is None:
        return f(*args)
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(args)):
        places = jax.tree.map(lambda x: NamedSharding(mesh, _sharding(x).spec), like)
        axes = _axes(mesh, AxisType.Explicit)
        return jax.sharding.auto_axes(f, axes=axes, out_sharding=places)(*args)
    places = jax.tree.map(lambda x: getattr(x, "sharding", None), like)
    auto = mesh.update(axis_types=(AxisType.Auto,) * len(mesh.axis_names))
    with jax.sharding.use_abstract_mesh(auto):
        merged = f(*jax.tree.map(_on_auto_mesh, args))
    return jax.tree.map(jax.device_put, merged, places)


def _is_explicit(sharding: Any) -> bool:
    is_named = isinstance(sharding, NamedSharding)
    return is_named and AxisType.Explicit in sharding.mesh.axis_types


def _on_auto_mesh(x: Any) -> Any:
    """The same array, in the same memory, on a mesh whose axes are XLA's."""
    place: Any = getattr(x, "sharding", None)
    if not _is_explicit(place):
        return x
    names = place.mesh.axis_names
    mesh = jax.sharding.Mesh(
        place.mesh.devices, names, axis_types=(AxisType.Auto,) * len(names)
    )
    return jax.device_put(x, NamedSharding(mesh, place.spec))


def on_devices(f: Callable[..., Any], mesh: AbstractMesh, same: Any, items: Any) -> Any:
    """`f(same, items)`, each device with some of the items.

    Args:
      f: `(same, items) -> array`, item by item on the first axis.
      mesh: the devices.
      same: a tree of arrays, the same for all items.
      items: a tree of arrays `[n, ...]`; n need not fit the number of devices.
    """
    axes = _axes(mesh)
    devices = math.prod(mesh.shape[axis] for axis in axes)
    n = len(jax.tree.leaves(items)[0])
    padded = jax.tree.map(lambda x: _spread(_padded(x, -n % devices), mesh), items)
    split = PartitionSpec(axes)
    mapped = jax.shard_map(
        f,
        mesh=mesh,
        in_specs=(PartitionSpec(), split),
        out_specs=split,
        axis_names=set(axes),
        check_vma=False,
    )
    return _gathered(mapped(same, padded), mesh)[:n]


def alike(like: Any, x: Any) -> Any:
    """`x`, spread over devices as `like` is.

    Not to be called in a function that is jitted by itself: JAX puts its arguments of
    all calls in one group, and so it does (0.10) with all arrays of one shape and dtype
    unless their metadata differ.
    """
    if not isinstance(x, jax.core.Tracer):
        return jax.device_put(x, getattr(like, "sharding", None))
    with set_xla_metadata(alike=str(next(_groups))):
        return shard_alike(like, x)[1]


def _sharding(leaf: Any) -> Any:
    is_abstract = isinstance(leaf, jax.ShapeDtypeStruct)
    return leaf.sharding if is_abstract else jax.typeof(leaf).sharding


def _axes(mesh: Any, *types: AxisType) -> tuple[str, ...]:
    """Axes of these types, or all that XLA has charge of, the last first.

    Arrays are spread in that order, an axis at a time, so that XLA moves parts from
    device to device where it would else gather all of them: an array axis is commonly
    spread over mesh axes in the mesh's order, and may be taken off its last one.
    """
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    types = types or (AxisType.Auto, AxisType.Explicit)
    return tuple(name for name, kind in kinds if kind in types)[::-1]


def _spread(x: jax.Array, mesh: AbstractMesh) -> jax.Array:
    for count in range(1, len(_axes(mesh)) + 1):
        x = _constrained(x, mesh, count)
    return x


def _gathered(x: jax.Array, mesh: AbstractMesh) -> jax.Array:
    for count in reversed(range(len(_axes(mesh)))):
        x = _constrained(x, mesh, count)
    return x


def _constrained(x: jax.Array, mesh: AbstractMesh, count: int) -> jax.Array:
    """With the first axis spread over so many axes of the mesh."""
    spec = PartitionSpec(_axes(mesh)[:count] or None, *[_FREE] * (x.ndim - 1))
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))


def _padded(x: jax.Array, by: int) -> jax.Array:
    last = jnp.broadcast_to(x[-1:], (by, *x.shape[1:]))
    return jnp.concatenate([x, last]) if by else x
