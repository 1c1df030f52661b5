"""The reference model of a checkpoint, and what leaves it has."""

import json
import warnings
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Any

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.transforms import Shape
from mda_jax.converters.translate import flat


def model_of(family: str) -> ModuleType:
    """The module of a family's reference model; importing it needs Flax."""
    return import_module(f"mda_jax.converters.models.{family}")


def shapes(
    family: str, config: Mapping[str, Any], leaves: Mapping[str, Shape]
) -> dict[str, Shape]:
    """Names and shapes of what a model holds; nothing is computed.

    Args:
      family: of the model.
      config: content of its `config.json`.
      leaves: shapes of a checkpoint; they decide which heads the model has.

    Raises:
      ConversionError: a field of the config is not understood.
    """
    return _shapes(family, json.dumps(config), tuple(sorted(leaves.items())))


@lru_cache(maxsize=32)
def _shapes(
    family: str, config: str, leaves: tuple[tuple[str, Shape], ...]
) -> dict[str, Shape]:
    from flax import nnx

    build = model_of(family).build
    model = nnx.eval_shape(lambda: build(json.loads(config), dict(leaves), nnx.Rngs(0)))
    state = nnx.to_pure_dict(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {name: tuple(array.shape) for name, array in flat(state).items()}


def check_leaves(
    family: str, config: Mapping[str, Any], got: Mapping[str, Shape], path: object
) -> None:
    """Compare leaves with the model that a config describes.

    A config that is not understood gives a warning, and none nothing to compare with.

    Args:
      family: of the model.
      config: content of its `config.json`.
      got: shapes of the leaves of a checkpoint.
      path: of the checkpoint, for the message.

    Raises:
      ConversionError: a leaf is missing, or too many, or of another shape.
    """
    if not config:
        return
    try:
        expected = shapes(family, config, got)
    except ConversionError as e:
        warnings.warn(f"not compared with a model: {e}", stacklevel=4)
        return
    for name in sorted(got.keys() | expected.keys()):
        if got.get(name) != expected.get(name):
            found = f"has shape {got[name]}" if name in got else "is missing"
            wanted = f"has it as {expected[name]}" if name in expected else "lacks it"
            raise ConversionError(
                f"{path}: {name!r} {found}, but the model that config.json"
                f" describes {wanted}."
            )
