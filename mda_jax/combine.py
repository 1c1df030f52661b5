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


def entrywise(f: Callable[..., Rows], /, **numbers: Any) -> Stage:
    """Like `stage`, for an `f` that treats every entry of a weight by itself."""
    return Partial(_each_entry, Partial(f, **numbers))


def survey(f: Callable[..., Any], /, **numbers: Any) -> Survey:
    """A survey from `f(deltas, *found, **numbers) -> tree of arrays`."""
    return Partial(_survey_alone, Partial(f, **numbers))


def sided_survey(f: Callable[..., Any], /, **numbers: Any) -> Survey:
    """A survey from `f(deltas, side, *found, **numbers) -> tree of arrays`."""
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


def surveyed(
    settle: Callable[..., Stage], /, *surveys: Survey, **numbers: Any
) -> Stage:
    """A stage that surveys its own weight first: say, for the angle between deltas.

    It can be applied to a large weight some rows at a time, each time with all columns;
    see `by_rows`.

    Args:
      settle: called with what each survey found, as for `whole_model`; its stage
        treats every row of the weight by itself.
      surveys: from `survey` or `sided_survey`. Of a weight of two axes or more each
        finds the sum of what it finds in its rows; or None for what is never needed
        beyond one row.
      numbers: of `settle`.
    """
    return Partial(_surveyed, whole_model(settle, *surveys, **numbers))


def by_rows(method: Any) -> WholeModel | None:
    """The method as one over a model whose weights are the rows of one weight.

    Args:
      method: a stage, or a whole-model method.

    Returns:
      Surveys and a stage that may be applied to some rows at a time; None where the
      method is not known to allow it: it is if it is made of `surveyed` and
      `entrywise`, the latter alone after the first of a chain.
    """
    kind, parts = _made_of(method)
    if kind is _surveyed:
        return parts[0]
    if is_entrywise(method):
        return whole_model(_as_given, stage=method)
    if kind is _fold and all(map(is_entrywise, parts[0][1:])):
        first, *rest = parts[0]
        if found := by_rows(first):
            surveys = (sided_survey(_first, survey=each) for each in found.surveys)
            return whole_model(_chained, *surveys, settle=found.settle, rest=(*rest,))
    return None


def is_entrywise(method: Any) -> bool:
    """Whether a method is made of `entrywise` alone."""
    kind, parts = _made_of(method)
    return kind is _each_entry or (kind is _fold and all(map(is_entrywise, parts[0])))


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
    kind, parts = _made_of(method)
    return kind is _fold and any(_made_of(s)[0] is _choose for s in parts[0][:1])


def _made_of(method: Any) -> tuple[Any, Any]:
    """The function of a stage, and the stages or other parts that it was given."""
    return getattr(method, "func", None), getattr(method, "args", ())


def is_matrix(side: Side) -> bool:
    """Whether the weight is a linear map: a matrix or a convolution kernel."""
    if side.role is None:
        return side.base.ndim == 2
    return side.role in (Role.MATRIX, Role.CONV)


def _alone(f: Callable[[Deltas], Rows], d: Deltas, side: Side) -> Rows:
    del side
    return f(d)


def _each_entry(f: Callable[[Deltas], Rows], d: Deltas, side: Side) -> Rows:
    return _alone(f, d, side)


def _survey_alone(f: Callable[..., Any], d: Deltas, side: Side, *found: Any) -> Any:
    del side
    return f(d, *found)


def _surveyed(method: WholeModel, d: Deltas, side: Side) -> Rows:
    found: tuple = ()
    for each in method.surveys:
        found = (*found, each(d, side, *found))
    return method.settle(*found)(d, side)


def _as_given(*, stage: Stage) -> Stage:
    return stage


def _first(d: Deltas, side: Side, *found: Any, survey: Survey) -> Any:
    """A survey of the first stage of a chain."""
    return survey(d, _link(side, 0), *found)


def _chained(
    *found: Any, settle: Callable[..., Stage], rest: tuple[Stage, ...]
) -> Stage:
    return chain(settle(*found), *rest)


def _fold(stages: tuple[Stage, ...], d: Deltas, side: Side) -> Rows:
    for i, each in enumerate(stages):
        d = each(d, _link(side, i))
    return d


def _link(side: Side, i: int) -> Side:
    """What stage `i` of a chain looks at: each draws from a key of its own."""
    key = None if side.key is None else jax.random.fold_in(side.key, i)
    return side._replace(key=key)


def _choose(
    test: Callable, then: Stage, otherwise: Stage, d: Deltas, side: Side
) -> Rows:
    return (then if test(side) else otherwise)(d, side)
