"""Averages of parameters along a training run, as pure functions.

An averager is three functions. `init` makes a state from parameters, `update` takes in
the parameters after a step, `value` gives the average. They trace, keep the shardings
of the parameters, and hold no Python state; the state is a pytree of arrays that may be
donated, and saved and restored: also its scalars are on all devices of the parameters.
Sums are float32 whatever the parameters are, so that the average of bfloat16 parameters
moves where their own type would round the step away (float64 of float64 ones); the
value, a copy, has their types again. Integers, booleans and keys are those of the last
update. Of stacked replicas each function is to go through `jax.vmap`.

Raises ValueError, all of them: a leaf is no real array, or has another shape than the
one that `init` was given.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


Params = Any  # a pytree of arrays
State = Any


class Averager(NamedTuple):
    """How to average parameters along a run.

    Attributes:
      init: parameters -> state.
      update: state, parameters after a step -> state.
      value: state -> average, like the parameters; before the first update those that
        `init` was given.
    """

    init: Callable[[Params], State]
    update: Callable[[State, Params], State]
    value: Callable[[State], Params]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Mean:
    """A weighted mean so far.

    Attributes:
      mean: of each leaf, in the type of the sums.
      weight: the sum of the weights, shrunk as the mean forgets: a scalar, float32, or
        float64 if a sum is.
      count: number of updates: int32, a scalar.
      dtypes: of the parameters.
    """

    mean: Params
    weight: Any
    count: Any
    dtypes: tuple[str, ...] = field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Ring:
    """The last parameters, of which the oldest is overwritten next.

    Attributes:
      held: each leaf `[size, *shape]`.
      count: number of updates: int32, a scalar.
    """

    held: Params
    count: Any


def weighted(
    step: Callable[[Int[Array, ""]], tuple[Any, Any]], dtype: Any = jnp.float32
) -> Averager:
    """The mean in which a share of the weights so far is forgotten before one is added.

    Args:
      step: number of updates before -> share in [0, 1], and weight >= 0 to add. A share
        near 0 has more digits than the factor that is left.
      dtype: of the sums; a wider type of a leaf stays.

    Returns:
      The averager; its value is the sum of what was weighted over the sum of weights.
    """

    @jax.jit
    def start(params: Params) -> Mean:
        mean = jax.tree.map(lambda x: widened(x, dtype), params)
        sums = [x.dtype for x in jax.tree.leaves(mean) if _is_averaged(x)]
        return Mean(
            mean,
            jnp.zeros((), reduce(_wider, sums, jnp.dtype(jnp.float32))),
            jnp.zeros((), jnp.int32),
            tuple(str(x.dtype) for x in jax.tree.leaves(params)),
        )

    def init(params: Params) -> Mean:
        _check_leaves(params)
        return start(params)

    def update(state: Mean, params: Params) -> Mean:
        _check_fit(state, jax.tree.map(jnp.shape, state.mean), params)
        gone, added = (
            jnp.asarray(x).astype(state.weight.dtype) for x in step(state.count)
        )
        weight = state.weight + (added - gone * state.weight)
        rate = jnp.where(weight > 0, added / jnp.where(weight > 0, weight, 1.0), 0.0)
        mean = jax.tree.map(lambda m, x: _towards(m, x, rate), state.mean, params)
        return Mean(mean, weight, state.count + 1, state.dtypes)

    def value(state: Mean) -> Params:
        _check_alone(state)
        dtypes = iter(state.dtypes)
        return jax.tree.map(lambda x: _cast(x, next(dtypes)), state.mean)

    return Averager(init, update, value)


def uniform(dtype: Any = jnp.float32) -> Averager:
    """The mean of all parameters so far (SWA, Izmailov et al., arXiv 1803.05407)."""
    return weighted(lambda count: (0.0, 1.0), dtype)


def ema(
    decay: Any = 0.999,
    *,
    half_life: Any = None,
    warmup: bool = False,
    debias: bool = True,
    dtype: Any = jnp.float32,
) -> Averager:
    """The exponential moving average of the parameters.

    Args:
      decay: what is left of a weight after a step, in [0, 1).
      half_life: steps after which half of a weight is left, > 0, in place of `decay`.
      warmup: whether early steps forget faster: of a weight `(1 + n) / (10 + n)` is
        left, if that is less, by an update with n before it.
      debias: whether weights are normalised, so that what `init` was given does not
        count; else it counts as the first parameters with all the weight.
      dtype: of the sums.

    Raises:
      ValueError: a number is out of its range.
    """
    if half_life is None:
        _check("decay", decay, lambda d: 0 <= d < 1, "in [0, 1)")
        forgotten = 1 - decay
    else:
        _check("half_life", half_life, lambda h: h > 0, "> 0")
        traced = isinstance(half_life, jax.core.Tracer)
        forgotten = -(jnp if traced else np).expm1(-math.log(2) / half_life)

    def step(count: Int[Array, ""]) -> tuple[Any, Any]:
        if not warmup:
            return forgotten, forgotten
        early = 9 / (10 + count.astype(float))
        share = jnp.maximum(jnp.asarray(forgotten).astype(early.dtype), early)
        return share, share

    moving = weighted(step, dtype)
    if debias:
        return moving

    def init(params: Params) -> Mean:
        state = moving.init(params)
        return Mean(state.mean, jnp.ones_like(state.weight), state.count, state.dtypes)

    return moving._replace(init=init)


def wsm(factors: Any, dtype: Any = jnp.float32) -> Averager:
    """The merge of checkpoints that stands for a decay of the learning rate.

    Training goes on at a constant rate; merged, the checkpoints are what they would be
    had the updates between them been scaled by the factors (WSM, Tian et al.,
    arXiv 2507.17634).

    Args:
      factors: `[k]`, of the updates from each checkpoint to the next, not increasing,
        within [0, 1]; see `decay_factors`.
      dtype: of the sums.

    Returns:
      An averager to be updated k + 1 times: with the checkpoint where the decay begins,
      and after each interval. Later updates do not count.

    Raises:
      ValueError: a factor is out of its range, or above the one before.
    """
    weights = merge_weights(factors)
    falling = "numbers in [0, 1], none above the one before"
    _check("factors", factors, lambda _: (weights >= 0).all(), falling)

    def step(count: Int[Array, ""]) -> tuple[Any, Any]:
        place = jnp.minimum(count, len(weights) - 1)
        return 0.0, jnp.where(count < len(weights), weights[place], 0.0)

    return weighted(step, dtype)


def merge_weights(factors: Any) -> Float[Array, " checkpoints"]:
    """Weights of checkpoints under which the updates between them are scaled.

    Args:
      factors: `[k]`, of the update from each of k + 1 checkpoints to the next.

    Returns:
      `[k + 1]`, with sum 1; for `methods.linear` on saved checkpoints, too.

    >>> merge_weights([0.75, 0.25]).tolist()
    [0.25, 0.5, 0.25]
    """
    scaled = jnp.concatenate([jnp.ones(1), jnp.asarray(factors, float), jnp.zeros(1)])
    return scaled[:-1] - scaled[1:]


def decay_factors(
    curve: Callable[[Float[Array, " k"]], Float[Array, " k"]], count: int
) -> Float[Array, " k"]:
    """The factors of a decay, at the middle of each interval.

    Args:
      curve: part of the decay that is over, in [0, 1] -> factor; such as `linear`,
        `cosine`, `one_minus_sqrt`.
      count: number of intervals, >= 1.

    Raises:
      ValueError: there is no interval.

    >>> decay_factors(linear, 4).tolist()
    [0.875, 0.625, 0.375, 0.125]
    """
    _check("count", count, lambda n: n >= 1, ">= 1")
    return curve((jnp.arange(count, dtype=float) + 0.5) / count)


def linear(t: Float[Array, " k"]) -> Float[Array, " k"]:
    """From 1 to 0 in a straight line."""
    return 1 - t


def cosine(t: Float[Array, " k"]) -> Float[Array, " k"]:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + jnp.cos(jnp.pi * t))


def one_minus_sqrt(t: Float[Array, " k"]) -> Float[Array, " k"]:
    """From 1 to 0, steep at first (Hägele et al., arXiv 2405.18392)."""
    return 1 - jnp.sqrt(t)


def window(size: int, dtype: Any = jnp.float32) -> Averager:
    """The mean of the last parameters (LAWA, Kaddour, arXiv 2209.14981).

    Args:
      size: how many, >= 1; so many copies are held, in the parameters' own types.
      dtype: of the sums.

    Raises:
      ValueError: the size is below 1.
    """
    _check("size", size, lambda n: n >= 1, ">= 1")

    @jax.jit
    def start(params: Params) -> Ring:
        held = jax.tree.map(lambda x: jnp.broadcast_to(x, (size, *x.shape)), params)
        return Ring(held, jnp.zeros((), jnp.int32))

    def init(params: Params) -> Ring:
        _check_leaves(params)
        return start(params)

    def update(state: Ring, params: Params) -> Ring:
        _check_fit(state, jax.tree.map(lambda h: h.shape[1:], state.held), params)
        place = state.count % size
        held = jax.tree.map(lambda h, x: h.at[place].set(x), state.held, params)
        return Ring(held, state.count + 1)

    def value(state: Ring) -> Params:
        _check_alone(state)
        known = jnp.clip(state.count, 1, size)
        last = (state.count - 1) % size
        return jax.tree.map(lambda h: _mean_of(h, known, last, dtype), state.held)

    return Averager(init, update, value)


def _is_averaged(x: Array) -> bool:
    return bool(jnp.issubdtype(x.dtype, jnp.floating))


def _cast(x: Array, dtype: str) -> Array:
    """A copy, which outlives a state that is donated."""
    return jnp.array(x, dtype if _is_averaged(x) else None)


def widened(x: Array, dtype: Any = jnp.float32) -> Array:
    """A copy of a leaf, in the type of the sums if that is wider than its own."""
    if not _is_averaged(x):
        return jnp.array(x)
    return jnp.array(x, _wider(x.dtype, dtype))


def _wider(one: Any, other: Any) -> Any:
    return one if jnp.finfo(one).bits > jnp.finfo(other).bits else other


def _towards(mean: Array, x: Array, rate: Float[Array, ""]) -> Array:
    if not _is_averaged(mean):
        return x
    new, rate = x.astype(mean.dtype), rate.astype(mean.dtype)
    moved = jnp.where(rate == 1, new, mean + rate * (new - mean))
    return jnp.where(rate == 0, mean, moved)  # what does not count may be infinite


def _mean_of(
    held: Array, known: Int[Array, ""], last: Int[Array, ""], dtype: Any
) -> Array:
    """The mean of the first of a ring, as many as are known."""
    if not _is_averaged(held):
        return held[last]
    wide = held.astype(_wider(held.dtype, dtype))
    axes = tuple(range(1, held.ndim))
    counts = jnp.expand_dims(jnp.arange(len(held)) < known, axes)
    total = jnp.where(counts, wide, jnp.zeros_like(wide)).sum(0)
    return (total / known.astype(wide.dtype)).astype(held.dtype)


def _check_leaves(params: Params) -> None:
    """Raise for a leaf that cannot be averaged."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        found = getattr(leaf, "dtype", type(leaf).__name__)
        if isinstance(found, str) or jnp.issubdtype(found, jnp.complexfloating):
            name = jax.tree_util.keystr(path)
            raise ValueError(
                f"params{name} is {found}; expected an array of real numbers."
            )


def _check_fit(state: Mean | Ring, shapes: Any, params: Params) -> None:
    """Raise unless the leaves have the shapes of those that are averaged."""
    _check_alone(state)
    _check_leaves(params)

    def check(path: tuple, leaf: Any, shape: tuple[int, ...]) -> None:
        if leaf.shape != shape:
            problem = f"params{jax.tree_util.keystr(path)} has shape {leaf.shape}"
            raise ValueError(f"{problem}; expected {shape}, as given to init.")

    jax.tree_util.tree_map_with_path(check, params, shapes)


def _check_alone(state: Mean | Ring) -> None:
    """Raise for the states of several averages, stacked."""
    if state.count.ndim:
        raise ValueError(
            f"the state has a count of shape {state.count.shape}; expected a scalar."
            " States of replicas go through jax.vmap."
        )


def _check(name: str, value: Any, holds: Callable[[Any], Any], expected: str) -> None:
    """Raise for a number out of range; one that is traced is not looked at."""
    if not isinstance(value, jax.core.Tracer) and not holds(value):
        raise ValueError(f"{name} is {value}; expected {expected}.")
