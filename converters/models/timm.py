"""Reading the `config.json` of timm, which names an architecture and no numbers."""

import re
from collections.abc import Mapping
from typing import Any

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.models.config import HubConfig


class Config(HubConfig):
    """The fields of the file; those of labels and of images change no number."""

    architecture: str
    num_classes: int | None = None
    num_features: int | None = None
    global_pool: str | None = None
    label_names: Any = None
    label_descriptions: Any = None
    pretrained_cfg: Mapping[str, Any] = {}
    model_args: Mapping[str, Any] = {}


_HARMLESS = {"img_size", "num_classes", "in_chans", "global_pool"}


def read(content: Mapping[str, Any], known: re.Pattern[str]) -> Config:
    """Check the file of a model.

    Args:
      content: as it was parsed.
      known: the architectures that the reference model computes.

    Returns:
      The fields.

    Raises:
      ConversionError: another architecture, or changed by arguments of its own.
    """
    config = Config.read(content)
    if not known.fullmatch(config.architecture):
        raise ConversionError(
            f"config.json: the architecture {config.architecture!r} of timm is not one"
            " whose mathematics is known; known ones match"
            f" {known.pattern!r}. Convert its weights without building a model."
        )
    changed = {
        name
        for name in config.model_args
        if name not in _HARMLESS and not name.endswith("drop_rate")
    }
    if changed:
        raise ConversionError(
            f"config.json: 'model_args' sets {', '.join(sorted(changed))}, which may"
            " change what the model computes."
        )
    return config
