"""Models of timm and torchvision, whose numbers their weights tell and no file."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.models.config import HubConfig


class Config(HubConfig):
    """Fields of `config.json` of timm, which names an architecture."""

    architecture: str
    num_classes: int | None = None
    num_features: int | None = None
    global_pool: str | None = None
    label_names: Any = None
    label_descriptions: Any = None
    pretrained_cfg: Mapping[str, Any] = {}
    model_args: Mapping[str, Any] = {}


_HARMLESS = {"global_pool", "img_size", "in_chans", "num_classes", "pretrained"}


def read(content: Mapping[str, Any], known: re.Pattern[str]) -> Config:
    """Check a `config.json` of timm.

    Args:
      content: as it was parsed.
      known: the architectures that the reference model computes.

    Returns:
      The fields.

    Raises:
      ConversionError: another architecture, or one changed by `model_args`.
    """
    config = Config.read(content)
    if not known.fullmatch(config.architecture):
        raise ConversionError(
            f"config.json: there is no model of timm's {config.architecture!r}, only of"
            f" those that match {known.pattern!r}. Its weights convert without a model."
        )
    changed = sorted(
        name
        for name in config.model_args
        if name not in _HARMLESS and not name.endswith(("drop_rate", "drop_path_rate"))
    )
    if changed:
        raise ConversionError(
            f"config.json: 'model_args' has {changed[0]!r}, which may change what the"
            " model computes. Remove it if it does not."
        )
    return config


def stated(content: Mapping[str, Any], known: re.Pattern[str]) -> dict[str, Any]:
    """The numbers that a config states.

    Args:
      content: of transformers or written by hand; or of timm, which states none.
      known: as for `read`.

    Raises:
      ConversionError: the same.
    """
    if "architecture" not in content:
        return dict(content)
    read(content, known)
    return {}


def described(
    content: Mapping[str, Any],
    leaves: Mapping[str, tuple[int, ...]],
    seen: Callable[[Mapping[str, tuple[int, ...]]], dict[str, Any]],
    known: re.Pattern[str],
) -> Mapping[str, Any]:
    """The numbers of a model: of transformers' config, else told by the leaves.

    Args:
      content: as for `stated`, which counts before what is seen.
      leaves: shapes by name.
      seen: what they tell.
      known: as for `read`.

    Raises:
      ConversionError: the same.
    """
    if "model_type" in content:
        return content
    return seen(leaves) | stated(content, known)


def shape(leaves: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    """The shape of a leaf that every model has.

    Raises:
      ConversionError: it is missing.
    """
    if name not in leaves:
        raise ConversionError(f"the leaf {name!r} is missing.")
    return leaves[name]


def depths(leaves: Mapping[str, tuple[int, ...]]) -> list[int]:
    """How many layers each stage has, from leaves `stages/{s}/.../{layer}/...`."""
    found = {m.groups() for name in leaves if (m := _LAYER.match(name))}
    counted = Counter(int(stage) for stage, _ in found)
    return [counted[stage] for stage in range(len(counted))]


_LAYER = re.compile(r"stages/(\d+)/(?:layers/)?(\d+)/")
