"""Replicas that are merged inside a training loop and go on from the merge.

Replicas are copies of one model in training at once, each on its own data. They are
one tree whose leaves have the replicas on a first axis, `[T, *shape]`, trained through
`jax.vmap` and spread over a mesh axis or not; or, with `axis_name`, each is a tree of
its own within `jax.shard_map` or `jax.vmap`, where that axis counts them. Axes of a
mesh that leaves are split over within a replica are left to the compiler there:
`jax.shard_map(..., axis_names={axis_name})`.
"""

from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mda_jax import _check, trees
from mda_jax.engine import in_auto_mode, merge, merge_by_name
from mda_jax.training.averagers import Params, widened


OptimiserState = Any
Policy = Callable[[OptimiserState, Params, Hashable], OptimiserState]
STACKED = "replicas"  # names the first axis of stacked replicas to a policy


class MergerState(NamedTuple):
    """What merging remembers between two steps.

    Attributes:
      anchor: what the replicas last went on from: the merged model. Its integers,
        booleans and keys are those that `init` was given.
      outer: the state of the outer optimiser; None without one.
      count: number of updates: int32, a scalar.
      key: the data of the PRNG key that the key of every merge is folded from, or
        None.
    """

    anchor: Params
    outer: Any
    count: Any
    key: Any


class Merger(NamedTuple):
    """How to merge replicas along a run.

    Attributes:
      init: parameters of one model, which all replicas start from -> state.
      update: state, replicas after a step, states of their optimisers -> the same
        three to go on with.
    """

    init: Callable[[Params], MergerState]
    update: Callable[
        [MergerState, Params, OptimiserState],
        tuple[MergerState, Params, OptimiserState],
    ]


def replicate(tree: Any, count: int) -> Any:
    """Stacked replicas of a tree: each leaf `count` times, `[count, *shape]`.

    A key is copied as well; `jax.random.split` gives replicas keys of their own.
    """
    _check.at_least_one("replicate", count=count)
    return jax.tree.map(lambda x: _own(jnp.broadcast_to(x, (count, *x.shape))), tree)


def merge_replicas(
    base: Params,
    replicas: Params,
    method: Any,
    *,
    axis_name: Hashable = None,
    **options: Any,
) -> Params:
    """Merge replicas into one model: `merge` with the replicas as experts.

    Args:
      base: what the replicas were trained from, one model.
      replicas: leaves `[T, *shape]`; with `axis_name`, this replica's own `[*shape]`.
      method: as for `merge`; or `{regex: method}` as for `merge_by_name`.
      axis_name: the axis of `jax.shard_map` or `jax.vmap` that counts the replicas, or
        a tuple of axes of a mesh that do. Each replica gathers the others leaf by
        leaf, and all compute the merge.
      **options: of `merge`.

    Returns:
      A tree like `base`; its integers, booleans and keys are the base's. To
      `jax.shard_map` it is equal on all devices of the axis if the base is: its
      `out_specs` may be `P()`, with `check_vma` or without.

    Raises:
      ValueError: as `merge`.
    """
    if axis_name is not None:
        replicas = jax.tree.map(partial(_gathered, axis_name), replicas)
    if isinstance(method, Mapping):
        return merge_by_name(method, base, replicas, **options)
    return merge(base, replicas, method, **options)


def keep(state: OptimiserState, params: Params, axis_name: Hashable) -> OptimiserState:
    """Each replica keeps the state of its optimiser."""
    del params, axis_name
    return state


def averaged(
    state: OptimiserState, params: Params, axis_name: Hashable
) -> OptimiserState:
    """The mean of the states; each replica keeps its integers, booleans and keys."""
    del params
    return jax.tree.map(partial(_mean, axis_name), state)


def fresh(
    optimiser: optax.GradientTransformation,
    trained: Callable[[Params], Params] = lambda params: params,
) -> Policy:
    """The state at the start of a training that begins with the merged model.

    What counts steps or averages parameters within the state begins again, too.

    Args:
      optimiser: the one that every replica is trained with.
      trained: what of the merged model is, if not all: of Linen's variables
        `lambda variables: variables["params"]`.
    """

    def begin(
        state: OptimiserState, params: Params, axis_name: Hashable
    ) -> OptimiserState:
        del state, axis_name
        return optimiser.init(trained(params))

    return begin


def merge_every(
    k: Any,
    method: Any,
    *,
    outer: optax.GradientTransformation | None = None,
    optimiser_states: Policy = keep,
    axis_name: Hashable = None,
    key: Any = None,
    **options: Any,
) -> Merger:
    """Merge replicas every k steps; they go on from the merge.

    Task vectors are what the replicas learnt since the last merge. With `linear` this
    is local SGD (Stich, arXiv 1805.09767); with an outer optimiser, DiLoCo (Douillard
    et al., arXiv 2311.08105), whose choice is
    `optax.sgd(0.7, momentum=0.9, nesterov=True)`; merged once, at the end of a run,
    branch-train-merge (Li et al., arXiv 2208.03306). Call `update` after every step,
    within `jax.jit`: it compiles once for the whole run. An `averaging` in a replica's
    optimiser sees parameters before they are merged; to average merged ones, call
    `averager.update` with the anchor.

    Args:
      k: steps from one merge to the next, >= 1; may be a traced integer.
      method: as for `merge_replicas`.
      outer: its gradient is the anchor minus the merged model, in float32, and it
        moves the anchor; without it the merged model is the next anchor. `sgd(1.0)`
        does the same up to rounding.
      optimiser_states: what becomes of the states of the replicas' own optimisers at
        a merge: `keep` (as in DiLoCo, and if none is given: no other leaves steps that
        do not know of the merge as they are), `averaged`, `fresh(optimiser)`, or a
        function `(state, params, axis_name) -> state` of one replica and what it goes
        on from, which may use collectives over the axis.
      axis_name: as for `merge_replicas`. Under `jax.vmap` the state is no replica's:
        its `in_axes` and `out_axes` are None. In `jax.shard_map` its specs are `P()`.
      key: a PRNG key, for methods that draw; each merge draws from the key folded
        with its step. It is kept in the state, so that a resumed run draws alike.
      **options: of `merge`.

    Returns:
      The merger. Everything keeps its sharding and its dtype; call `init` outside
      `jax.jit`, as within it XLA places what optax fills with zeros. An anchor that an
      outer optimiser moves is float32 where the parameters are narrower, so that small
      moves add up; task vectors are measured from what the replicas really started
      from, the anchor in their own dtype. Each replica keeps its integers, booleans
      and keys.

    Raises:
      ValueError: k is below 1, or the key is none; from `update`, the replicas do not
        fit the anchor, or as `merge`.

    >>> import mda_jax as mda
    >>> merger = merge_every(2, mda.methods.linear())
    >>> state, replicas = merger.init(jnp.zeros(2)), jnp.zeros((2, 2))
    >>> for step in (jnp.eye(2), jnp.eye(2)):
    ...     state, replicas, _ = merger.update(state, replicas + step, None)
    >>> replicas.tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    _check.typed_key("merge_every", key)
    if not isinstance(k, jax.core.Tracer):
        _check.at_least_one("merge_every", k=k)
    leader = None if outer is None else optax.masked(outer, _merged_leaves)
    impl = None if key is None else jax.random.key_impl(key)

    def init(params: Params) -> MergerState:
        anchor = params if leader is None else jax.tree.map(widened, params)
        state = None if leader is None else leader.init(anchor)
        data = None if key is None else jax.random.key_data(key)
        return _together(MergerState(anchor, state, jnp.zeros((), jnp.int32), data))

    def update(
        state: MergerState, replicas: Params, inner: OptimiserState
    ) -> tuple[MergerState, Params, OptimiserState]:
        _check_fit(state.anchor, replicas, axis_name)
        count = state.count + 1
        drawn = None if key is None else _folded(state.key, impl, count)

        def merged(anchor: Params, led: Any, replicas: Params, inner: Any) -> tuple:
            start = jax.tree.map(_started_from, anchor, replicas)
            found = merge_replicas(
                start, replicas, method, axis_name=axis_name, key=drawn, **options
            )
            anchor, led = _led(leader, anchor, start, found, led)
            replicas = jax.tree.map(_going_on, anchor, replicas)
            inner = _fitted(inner, _each(optimiser_states, axis_name)(inner, replicas))
            return anchor, led, replicas, inner

        anchor, led, replicas, inner = jax.lax.cond(
            count % k == 0,
            merged,
            lambda *unchanged: unchanged,
            *(state.anchor, state.outer, replicas, inner),
        )
        return MergerState(anchor, led, count, state.key), replicas, inner

    def in_place(*arguments: Any) -> tuple:
        placed: tuple = in_auto_mode(update, arguments, *arguments)
        return placed

    return Merger(init, in_place if axis_name is None else update)


def _folded(data: Any, impl: Any, count: Any) -> Any:
    return jax.random.fold_in(jax.random.wrap_key_data(data, impl=impl), count)


def _check_fit(anchor: Params, replicas: Params, axis_name: Hashable) -> None:
    who, leaves = "merge_every", trees.named(replicas)
    count = _check.stacked(who, leaves) if axis_name is None else ()
    _check.same_leaves(who, "replicas", trees.named(anchor), leaves, count)


def _each(policy: Policy, axis_name: Hashable) -> Callable[..., OptimiserState]:
    """What becomes of the states of the replicas of an axis, or of stacked ones."""

    def one(state: OptimiserState, params: Params) -> OptimiserState:
        return policy(state, params, STACKED if axis_name is None else axis_name)

    return jax.vmap(one, axis_name=STACKED) if axis_name is None else one


def _led(
    leader: optax.GradientTransformation | None,
    anchor: Params,
    start: Params,
    found: Params,
    state: Any,
) -> tuple[Params, Any]:
    """The anchor after a merge, and the state of the outer optimiser."""
    if leader is None:
        return found, state
    gradient = jax.tree.map(
        lambda x, y: x - y if _check.is_merged(x) else x, start, found
    )
    moves, state = leader.update(gradient, state, anchor)
    return jax.tree.map(_moved, anchor, moves), state


def _moved(x: Any, move: Any) -> Any:
    return (x + move).astype(x.dtype) if _check.is_merged(x) else x


def _merged_leaves(tree: Any) -> Any:
    return jax.tree.map(_check.is_merged, tree)


def _started_from(anchor: Any, replica: Any) -> Any:
    """The anchor as replicas start from it, in its own type.

    Without the barrier XLA may leave out a cast there and back.
    """
    if not _check.is_merged(anchor):
        return anchor
    return jax.lax.optimization_barrier(anchor.astype(replica.dtype)).astype(
        anchor.dtype
    )


def _going_on(anchor: Any, replica: Any) -> Any:
    if not _check.is_merged(replica):
        return replica
    return jnp.broadcast_to(_fit(replica, anchor), replica.shape)


def _fitted(old: OptimiserState, new: OptimiserState) -> OptimiserState:
    got, want = trees.named(new), trees.named(old)
    if got.keys() != want.keys():
        lacks, has = sorted(want.keys() - got.keys()), sorted(got.keys() - want.keys())
        raise ValueError(
            f"merge_every: optimiser_states gave states that lack {lacks[:3]} and have"
            f" {has[:3]}, unlike the replicas'. Pass `fresh` the optimiser that they"
            " are trained with and, if not all that is merged is trained, `trained`."
        )
    return jax.tree.map(_fit, old, new)


def _fit(old: Any, new: Any) -> Any:
    """A new value in the type of an old one, which may vary along manual axes."""
    for axis in _varying(old) - _varying(new):
        new = jax.lax.pcast(new, axis, to="varying")
    return new if new.dtype == old.dtype else new.astype(old.dtype)


def _mean(axis_name: Hashable, x: Any) -> Any:
    return jax.lax.pmean(widened(x), axis_name) if _check.is_merged(x) else x


def _gathered(axis_name: Hashable, x: Any) -> Any:
    """A leaf of every replica, `[T, *shape]`; what is not merged is not sent."""
    if not _check.is_merged(x):
        return jnp.broadcast_to(x, (jax.lax.axis_size(axis_name), *x.shape))
    x = jnp.expand_dims(x, 0)  # JAX (0.10) does not shift the axes of explicit meshes
    names = set(axis_name) if isinstance(axis_name, tuple) else {axis_name}
    if not names <= _varying(jax.lax.axis_index(axis_name)):
        return jax.lax.all_gather(x, axis_name, tiled=True)
    for axis in names - _varying(x):
        x = jax.lax.pcast(x, axis, to="varying")
    return jax.lax.all_gather(x, axis_name, tiled=True, to="invarying")


def _varying(x: Any) -> frozenset:
    """The manual axes that a value varies along, as far as JAX keeps count."""
    return jax.typeof(x).manual_axis_type.varying


@jax.jit
def _together(tree: Any) -> Any:
    """A copy of arrays on all the devices that any of them is on.

    What is restored to where it was saved from is then fit for a step on a mesh.
    """
    return jax.tree.map(_own, tree)


def _own(x: Any) -> Any:
    """A copy, whose type is not weak: a second step would be compiled for that."""
    return jnp.array(x, x.dtype)
