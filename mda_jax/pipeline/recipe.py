"""From a configuration to a stage: mergekit's meaning of its methods, and our own."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from mda_jax import methods, primitives as p
from mda_jax._types import Role, Stage, WholeModel
from mda_jax.combine import chain, stage
from mda_jax.methods._task_arithmetic import task_arithmetic
from mda_jax.methods._ties import elected_sum, elected_weighted_mean
from mda_jax.pipeline import parameters
from mda_jax.pipeline.config import Request
from mda_jax.pipeline.document import nearest
from mda_jax.pipeline.parameters import Parameter, Signature
from mda_jax.pipeline.trim import Trim


MERGEKIT_ONLY = frozenset(
    "arcee_fusion breadcrumbs breadcrumbs_ties dare_linear dare_ties della della_linear"
    " karcher model_stock multislerp nearswap nuslerp passthrough ram ramplus_tl sce"
    " slerp".split()
)
EVERYWHERE = frozenset(Role)
SPECTRAL = frozenset({Role.MATRIX, Role.CONV})

_WEIGHT = Parameter(None, own=True)
_LINEAR = {"weight": _WEIGHT, "normalize": Parameter(True)}
_TASK_ARITHMETIC = {
    "weight": _WEIGHT,
    "lambda": Parameter(1.0),
    "normalize": Parameter(False),
    "int8_mask": Parameter(False),  # a matter of storage: the result is the same
}
_TIES = _TASK_ARITHMETIC | {
    "density": Parameter(1.0, own=True),
    "normalize": Parameter(True),
    "rescale": Parameter(False),
}


class Recipe(NamedTuple):
    """What to read, and what to do with it."""

    method: str
    stage: Stage
    donor: Path  # gives names, types and the other files
    experts: tuple[Path, ...]
    subtract: bool  # whether experts are seen relative to the donor, or to zero
    elementwise: frozenset[Role]  # where entries do not depend on each other
    trim: Trim | None = None  # what happens to each expert before the stage


def recipe(request: Request) -> Recipe:
    """Choose models and stage.

    Args:
      request: a configuration whose models exist.

    Returns:
      The recipe.

    Raises:
      ConfigError: the method is unknown, a parameter is unknown, missing or out of
        range, or `base_model` is missing.
    """
    name = request.config.merge_method
    if name in _MERGEKIT:
        return _MERGEKIT[name](request)
    if name in methods.names:
        return _ours(request)
    steps = ("merge_method",)
    if name in MERGEKIT_ONLY:
        raise request.document.error(
            steps,
            f"{name!r} is a method of mergekit that is not supported yet; there are:"
            f" {', '.join(methods.names)}.",
        )
    hint = nearest(name, methods.names)
    raise request.document.error(steps, f"no merge method {name!r}; {hint}.")


def _linear(request: Request) -> Recipe:
    """Weighted sum of the models' weights; the base, if set, is one more of them."""
    parameters.check(request, _LINEAR)
    folders = list(request.folders)
    weights = [
        parameters.own(request, _LINEAR, "weight", i) for i in range(len(folders))
    ]
    if request.base is not None and _place(request) is None:
        weight = parameters.common(request, _LINEAR, "weight")
        if weight is None:
            raise request.document.error(
                ("base_model",),
                "linear averages base_model too, which needs a 'weight' from the"
                " top-level parameters. List it among the models, or leave it out.",
            )
        folders.append(request.base)
        weights.append(float(weight))
    if parameters.shared(request, _LINEAR, "normalize"):
        weights = _normalised(request, weights)
    # The weights of the models are the deltas from zero.
    sum_ = chain(stage(p.weighted, weights=_numbers(weights)), stage(p.total))
    donor = request.base or folders[0]
    return Recipe("linear", sum_, donor, tuple(folders), False, EVERYWHERE)


def _task_arithmetic(request: Request) -> Recipe:
    experts, weights = _experts(request, _TASK_ARITHMETIC)
    scale = parameters.shared(request, _TASK_ARITHMETIC, "lambda")
    if parameters.shared(request, _TASK_ARITHMETIC, "normalize"):
        weights = _normalised(request, weights)
    method = task_arithmetic(scale=scale, weights=_numbers(weights))
    donor = _base(request)
    return Recipe("task_arithmetic", method, donor, experts, True, EVERYWHERE)


def _ties(request: Request) -> Recipe:
    """mergekit's TIES: weights vote, and share the disjoint mean, as weights."""
    experts, weights = _experts(request, _TIES)
    listed = _listed_experts(request)
    densities = [parameters.own(request, _TIES, "density", i) for i in listed]
    for i, density in zip(listed, densities, strict=True):
        if not 0 < density <= 1:
            problem = f"'density': got {density:g}; expected a fraction in (0, 1]."
            raise parameters.error(request, "density", i, problem)
    mean_or_sum = (
        stage(elected_weighted_mean, weights=_numbers(weights))
        if parameters.shared(request, _TIES, "normalize")
        else stage(elected_sum)
    )
    method = chain(
        stage(p.weighted, weights=_numbers(weights)),
        mean_or_sum,
        stage(p.scaled, by=parameters.shared(request, _TIES, "lambda")),
    )
    rescale = parameters.shared(request, _TIES, "rescale")
    trim = Trim(tuple(densities), bool(rescale))
    return Recipe("ties", method, _base(request), experts, True, EVERYWHERE, trim)


_MERGEKIT: dict[str, Callable[[Request], Recipe]] = {
    "linear": _linear,
    "task_arithmetic": _task_arithmetic,
    "ties": _ties,
}


def _ours(request: Request) -> Recipe:
    """A method of this library: its arguments by name, `lambda` being its scale."""
    name = request.config.merge_method
    factory = getattr(methods, name)
    signature = _signature(factory)
    experts, weights = _experts(request, signature)
    given = dict(request.config.parameters)
    if "lambda" in given and "scale" in given:
        problem = "'lambda' and 'scale' are the same number: give one of them."
        raise request.document.error(("parameters", "scale"), problem)
    if "lambda" in given:
        given["scale"] = given.pop("lambda")
    try:
        method = factory(**{k: v for k, v in given.items() if k != "weight"})
    except ValueError as e:
        raise request.document.error(("parameters",), str(e)) from e
    if isinstance(method, WholeModel):
        problem = f"{name!r} looks at the whole model, not supported from files yet."
        raise request.document.error(("merge_method",), problem)
    if set(weights) != {1.0}:
        method = chain(stage(p.weighted, weights=_numbers(weights)), method)
    return Recipe(name, method, _base(request), experts, True, EVERYWHERE - SPECTRAL)


def _signature(factory: Callable[..., Stage]) -> Signature:
    arguments = inspect.signature(factory).parameters.values()
    numbers = {a.name: Parameter(a.default) for a in arguments if a.default is not None}
    alias = {"lambda": numbers["scale"]} if "scale" in numbers else {}
    return numbers | alias | {"weight": Parameter(1.0, own=True)}


def _experts(
    request: Request, signature: Signature
) -> tuple[tuple[Path, ...], list[float]]:
    """The listed models but the base, and their weights."""
    parameters.check(request, signature)
    _base(request)
    listed = _listed_experts(request)
    if not listed:
        problem = "no model besides base_model is listed; add one to merge into it."
        raise request.document.error(("models",), problem)
    weights = [parameters.own(request, signature, "weight", i) for i in listed]
    return tuple(request.folders[i] for i in listed), weights


def _base(request: Request) -> Path:
    if request.base is None:
        problem = f"{request.config.merge_method} needs 'base_model': the ancestor."
        raise request.document.error((), problem)
    return request.base


def _listed_experts(request: Request) -> list[int]:
    place = _place(request)
    return [i for i in range(len(request.folders)) if i != place]


def _place(request: Request) -> int | None:
    """Where the base stands among the models."""
    if request.base is None:
        return None
    same = [i for i, f in enumerate(request.folders) if f.samefile(request.base)]
    return same[0] if same else None


def _normalised(request: Request, weights: list[float]) -> list[float]:
    total = sum(weights)
    if abs(total) < 1e-8:
        problem = "the weights sum to 0: set normalize to false, or other weights."
        raise request.document.error(("models",), problem)
    return [w / total for w in weights]


def _numbers(values: list[float]) -> jnp.ndarray:
    return jnp.asarray(np.asarray(values, np.float32))
