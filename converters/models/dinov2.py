"""DINOv2, after Oquab et al., arXiv 2304.07193: a ViT with layer scale.

With registers, after Darcet et al., arXiv 2309.16588. The classifier sees the class
token and the mean of the patches.
"""

from collections.abc import Mapping
from typing import Any, Literal

from flax import nnx
from jaxtyping import Array

from mda_jax.converters.models import vit


class Config(vit.VisionConfig):
    """Fields of `config.json` of DINOv2."""

    model_type: Literal["dinov2"] = "dinov2"
    intermediate_size: int = 0  # 0: from the ratio
    mlp_ratio: float = 4
    patch_size: int | tuple[int, int] = 14

    @property
    def mlp_width(self) -> int:
        """Units of the MLPs; gated ones have two thirds, in multiples of eight."""
        units = int(self.hidden_size * self.mlp_ratio)
        gated = (int(units * 2 / 3) + 7) // 8 * 8
        return self.intermediate_size or (gated if self.use_swiglu_ffn else units)


class WithRegisters(Config):
    """Fields of `config.json` of DINOv2 with registers."""

    model_type: Literal["dinov2_with_registers"] = "dinov2_with_registers"  # type: ignore[assignment]
    patch_size: int | tuple[int, int] = 16
    num_register_tokens: int = 4


def _kind(config: Mapping[str, Any]) -> type[Config]:
    registers = config.get("model_type") == "dinov2_with_registers"
    return WithRegisters if registers else Config


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> vit.Vit:
    """The model of a checkpoint.

    Args:
      config: as for a ViT.
      leaves: the same.
      rngs: for the first weights.

    Returns:
      The model with weights drawn at random.

    Raises:
      ConversionError: as for a ViT.
    """
    return vit.Vit(vit.described(_kind(config), config, leaves), leaves, rngs)


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: two images, of 224 pixels unless the config states a size."""
    return vit.images(_kind(config), config, key)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads, as far as the config tells."""
    return vit.heads(_kind(config), config)
