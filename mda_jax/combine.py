"""Build stages out of functions, and bigger stages out of stages.

A stage is a `jax.tree_util.Partial`: the function is static, the numbers it was given
are leaves. So `repr` shows them, `vmap` sweeps them, `grad` reaches them, and changing
one does not recompile.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.tree_util import Partial

from mda_jax._types import Deltas, Number, Role, Rows, Side, Stage, Survey, WholeModel
from mda_jax.primitives import mean, scaled


@jax.tree_util.register_static
@dataclass(frozen=True)
class Fixed:
    """A number that decides shapes: not a leaf, so changing it compiles again."""

    value: Any


def stage(f: Callable[..., Rows], /, **numbers: Any) -> Stage:
    """A stage from `f(deltas, **numbers)`."""
    return Partial(_alone, Partial(f, **numbers))


def sided(f: Callable[..., Rows], /, **numbers: Any) -> Stage:
    """A stage from `f(deltas, side, **numbers)`: it reads the base, a key or aux."""
    return Partial(f, **numbers)


def survey(f: Callable[..., Any], /, **numbers: Any) -> Survey:
    """A survey from `f(deltas, *found, **numbers) -> tree of arrays`."""
    return Partial(f, **numbers)


def whole_model(
    settle: Callable[..., Stage], /, *surveys: Survey, **numbers: Any
) -> WholeModel:
    """A method from `settle(*found, **numbers) -> Stage`: say, a global threshold.

    Args:
      settle: called with what each survey found: the sum over the weights.
      surveys: from `survey`, in order; each sees what those before it found.
      numbers: of `settle`.
    """
    return WholeModel(surveys, Partial(settle, **numbers))


def chain(*stages: Stage) -> Stage:
    """Left to right. `chain()` is the identity, that is, plain task addition.

    >>> import jax.numpy as jnp
    >>> from mda_jax import primitives as p
    >>> half_mean = chain(stage(p.mean), stage(p.scaled, by=0.5))
    >>> half_mean(jnp.array([[2.0, -1.0], [4.0, 3.0]]), Side(jnp.zeros(2)))
    Array([[1.5, 0.5]], dtype=float32)
    """
    return Partial(_fold, stages)


def where(test: Callable[[Side], bool], then: Stage, otherwise: Stage) -> Stage:
    """Choose by a static fact of the weight: `test(side)`, such as `is_matrix`."""
    return Partial(_choose, Partial(test), then, otherwise)


def spectral(matrices: Stage, scale: Number) -> Stage:
    """Linear maps by the given stage, all else by the mean, the result scaled."""
    rule = where(is_matrix, matrices, stage(mean))
    return chain(rule, stage(scaled, by=scale))


def is_spectral(method: Any) -> bool:
    """Whether a method came from `spectral`: all but linear maps take the mean."""
    parts: Any = getattr(method, "args", ())
    stages = parts[0] if getattr(method, "func", None) is _fold else ()
    return any(getattr(each, "func", None) is _choose for each in stages[:1])


def is_matrix(side: Side) -> bool:
    """Whether the weight is a linear map: a matrix or a convolution kernel."""
    if side.role is None:
        return side.base.ndim == 2
    return side.role in (Role.MATRIX, Role.CONV)


def _alone(f: Callable[[Deltas], Rows], d: Deltas, side: Side) -> Rows:
    del side
    return f(d)


def _fold(stages: tuple[Stage, ...], d: Deltas, side: Side) -> Rows:
    for i, each in enumerate(stages):
        key = None if side.key is None else jax.random.fold_in(side.key, i)
        d = each(d, side._replace(key=key))
    return d


def _choose(
    test: Callable, then: Stage, otherwise: Stage, d: Deltas, side: Side
) -> Rows:
    return (then if test(side) else otherwise)(d, side)
