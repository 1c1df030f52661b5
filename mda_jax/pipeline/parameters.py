"""Looking up the parameters of a merge: the model's own, else the common ones."""

from collections.abc import Mapping
from typing import NamedTuple

from mda_jax.pipeline.config import Request
from mda_jax.pipeline.document import Steps, nearest
from mda_jax.pipeline.errors import ConfigError


class Parameter(NamedTuple):
    """What a method accepts under one name."""

    default: float | bool | None  # None: required
    own: bool = False  # may differ from model to model

    @property
    def is_flag(self) -> bool:
        """Whether it is true or false, and no number."""
        return isinstance(self.default, bool)


Signature = Mapping[str, Parameter]


def check(request: Request, signature: Signature) -> None:
    """Refuse every parameter that the method does not have, or of the wrong kind.

    Args:
      request: the merge.
      signature: the parameters of its method.

    Raises:
      ConfigError: with the line and the nearest known name.
    """
    config = request.config
    for name, value in config.parameters.items():
        _check_one(request, ("parameters", name), value, signature)
    own = {name: p for name, p in signature.items() if p.own}
    for i, model in enumerate(config.models):
        for name, value in model.parameters.items():
            steps = ("models", i, "parameters", name)
            if name in signature and name not in own:
                raise request.document.error(
                    steps, f"{name!r} is one for all models: move it to the top level."
                )
            _check_one(request, steps, value, own)


def shared(request: Request, signature: Signature, name: str) -> float | bool:
    """The value of a parameter that all models have in common."""
    value = request.config.parameters.get(name, signature[name].default)
    if value is None:
        raise request.document.error((), f"parameter {name!r} is required.")
    return value


def own(request: Request, signature: Signature, name: str, model: int) -> float:
    """The value of a parameter for one of the listed models."""
    parameters = request.config.models[model].parameters
    value = parameters.get(name, common(request, signature, name))
    if value is None:
        raise request.document.error(
            ("models", model),
            f"{request.config.models[model].model}: parameter {name!r} is required"
            f" by {request.config.merge_method}; set it here or at the top level.",
        )
    return float(value)


def common(request: Request, signature: Signature, name: str) -> float | None:
    """The value for models that do not set their own."""
    return request.config.parameters.get(name, signature[name].default)


def error(request: Request, name: str, model: int, problem: str) -> ConfigError:
    """An error about one model's parameter, at the line that sets it."""
    is_own = name in request.config.models[model].parameters
    prefix: Steps = ("models", model) if is_own else ()
    return request.document.error((*prefix, "parameters", name), problem)


def _check_one(
    request: Request, steps: Steps, value: float | bool, signature: Signature
) -> None:
    name = str(steps[-1])
    if name not in signature:
        raise request.document.error(
            steps,
            f"{request.config.merge_method} has no parameter {name!r};"
            f" {nearest(name, signature)}.",
        )
    if isinstance(value, bool) != signature[name].is_flag:
        expected = "true or false" if signature[name].is_flag else "a number"
        raise request.document.error(
            steps, f"{name!r}: got {value!r}; expected {expected}."
        )
