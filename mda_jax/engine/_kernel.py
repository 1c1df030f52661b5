"""The compiled part: one chunk of alike weights, merged as one batch."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mda_jax import _check
from mda_jax._types import Role, Side, Stage, Survey, WholeModel
from mda_jax.engine._mesh import Way, on_devices
from mda_jax.primitives import total


@partial(jax.jit, static_argnames=("role", "shape", "stacked", "way"))
def merge_chunk(
    stage: Stage,
    bases: tuple,
    experts: tuple,
    extras: tuple,
    key: Any,
    seeds: Any,
    first_rows: Any,
    *,
    role: Role,
    shape: tuple[int, ...],
    stacked: bool,
    way: Way,
) -> tuple:
    """Merge leaves of one bucket; compiled once per bucket and chunk length.

    Args:
      stage: the method.
      bases: one canonical leaf each, `[stack, *d]`, or `[*d]` where not `stacked`.
      experts: per leaf a tuple of k such arrays, or one array with k before `*d`.
      extras: per leaf a tree of arrays, `[stack, ...]` where `stacked`; or None.
      key: the PRNG key of the merge, or None.
      seeds: one number per leaf, folded into the key.
      first_rows: one number per leaf: not 0 for some rows of a larger weight.
      role: of every leaf.
      shape: `(stack, *d)` of every leaf.
      stacked: whether the leaves have a stack axis.
      way: how many weights are in flight at once, and where.

    Returns:
      The merged leaves, shaped like `bases`, in the bases' dtype.
    """
    base = _joined([x.reshape(shape) for x in bases])
    rows = jax.tree.map(lambda *xs: _joined(xs), *(_rows(x, shape) for x in experts))
    keys = None if key is None else _keys(key, seeds, shape[0], stacked)
    each = extras if stacked else jax.tree.map(lambda x: x[None], extras)
    extra = jax.tree.map(lambda *xs: _joined(xs), *each)
    items = (base, rows, extra, keys, jnp.repeat(first_rows, shape[0]))
    merge_each = partial(_merge_each, role=role, at_once=way.weights)
    if way.mesh is not None and way.whole:
        merged = on_devices(merge_each, way.mesh, stage, items)
    else:
        merged = merge_each(stage, items)
    return tuple(merged.reshape(len(bases), *(shape if stacked else shape[1:])))


@partial(jax.jit, static_argnames=("role", "shape", "stacked"))
def surveyed(
    survey: Survey,
    found: tuple,
    base: Any,
    experts: Any,
    key: Any,
    seed: Any,
    first_row: Any,
    *,
    role: Role,
    shape: tuple[int, ...],
    stacked: bool,
) -> Any:
    """What a survey finds in one leaf, summed over its weights, one after the other.

    Args:
      survey: `(deltas, side, *found) -> tree of arrays`.
      found: the sums of the surveys before this one.
      base: the canonical leaf, as for `merge_chunk`.
      experts: as for `merge_chunk`.
      key: as for `merge_chunk`.
      seed: of the leaf, folded into the key.
      first_row: of the leaf, as for `merge_chunk`.
      role: of the leaf.
      shape: `(stack, *d)` of the leaf.
      stacked: whether the leaf has a stack axis.
    """
    keys = None if key is None else _keys(key, seed[None], shape[0], stacked)
    items = base.reshape(shape), _rows(experts, shape), keys

    def find(item: tuple) -> Any:
        base, experts, key = item
        side = Side(base, key, None, role, first_row)
        return survey(_delta(base, experts), side, *found)

    def add(so_far: Any, item: tuple) -> tuple[Any, None]:
        return plus(so_far, find(item)), None

    one = jax.eval_shape(find, jax.tree.map(lambda x: x[0], items))
    return jax.lax.scan(add, jax.tree.map(jnp.zeros_like, one), items)[0]


def plus(so_far: Any, found: Any) -> Any:
    """The sum of two findings, in the types of the first: leaves may differ there."""
    return jax.tree.map(lambda a, b: a + jnp.asarray(b, a.dtype), so_far, found)


@jax.jit
def settled(method: WholeModel, found: tuple) -> Stage:
    """The stage that a method settles on."""
    return method.settle(*found)


def _merge_each(stage: Stage, items: tuple, *, role: Role, at_once: int) -> jax.Array:
    """Weights `[n, *d]`, so many at once."""
    one = partial(_merge_one, stage, role)
    n = len(items[0])
    if n <= at_once:
        return jax.vmap(one)(*items)
    size = -(-n // -(-n // at_once))
    return jax.lax.map(lambda item: one(*item), items, batch_size=size)


def _merge_one(
    stage: Stage,
    role: Role,
    base: jax.Array,
    experts: Any,
    extra: Any,
    key: Any,
    first_row: Any,
) -> jax.Array:
    d = _delta(base, experts)
    rows = stage(d, Side(base, key, extra, role, first_row))
    _check.rows_fit(rows.shape, base.shape)
    (change,) = total(rows)
    return (base.astype(d.dtype) + change).astype(base.dtype)


def _delta(base: jax.Array, experts: Any) -> jax.Array:
    """`[k, *d]` in the dtype of the arithmetic.

    The barrier is for programs that hold the weights as constants: XLA would multiply
    matrices while compiling, for minutes.
    """
    base, experts = jax.lax.optimization_barrier((base, experts))
    dtype = _arithmetic(base.dtype)
    listed = isinstance(experts, tuple)
    rows = jnp.stack([x.astype(dtype) for x in experts]) if listed else experts
    return rows.astype(dtype) - base.astype(dtype)[None]


def _arithmetic(dtype: Any) -> Any:
    return dtype if dtype == jnp.float64 else jnp.float32


def _rows(experts: Any, shape: tuple[int, ...]) -> Any:
    """k arrays `[stack, *d]`, or one `[stack, k, *d]`; still in their own dtypes."""
    if isinstance(experts, tuple):
        return tuple(x.reshape(shape) for x in experts)
    return experts.reshape(shape[0], -1, *shape[1:])


def _joined(arrays: Sequence[jax.Array]) -> jax.Array:
    """Laid end to end; as float32 or float64 where their dtypes differ."""
    dtypes = {x.dtype for x in arrays}
    if len(dtypes) > 1:
        wide = _arithmetic(max(dtypes, key=lambda dtype: dtype.itemsize))
        arrays = [x.astype(wide) for x in arrays]
    return jnp.concatenate(arrays)


def _keys(key: jax.Array, seeds: jax.Array, stack: int, stacked: bool) -> jax.Array:
    """One key per weight: from the leaf's name, then from the place in its stack."""
    named = jax.vmap(jax.random.fold_in, (None, 0))(key, seeds)
    if not stacked:
        return named
    over_stack = jax.vmap(jax.random.fold_in, (None, 0))
    return jax.vmap(over_stack, (0, None))(named, jnp.arange(stack)).ravel()
