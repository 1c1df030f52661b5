"""SigLIP, after Zhai et al., arXiv 2303.15343; SigLIP 2 with images of fixed size."""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mda_jax.converters.models.config import HubConfig
from mda_jax.converters.models.layers import (
    Activation,
    Attention,
    LayerNorm,
    Mlp,
    attend,
)
from mda_jax.converters.models.towers import (
    ImageTowerConfig,
    Model,
    PatchTower,
    Text,
    TextTowerConfig,
    assembled,
    head_counts,
    random_inputs,
)


class VisionConfig(ImageTowerConfig):
    """Fields of the tower of images."""

    model_type: Literal["siglip_vision_model"] = "siglip_vision_model"
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    patch_size: int = 16
    hidden_act: Activation = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    vision_use_head: bool = True


class TextConfig(TextTowerConfig):
    """Fields of the tower of texts."""

    model_type: Literal["siglip_text_model"] = "siglip_text_model"
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    vocab_size: int = 32000
    max_position_embeddings: int = 64
    hidden_act: Activation = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    projection_size: int | None = None


class Config(HubConfig):
    """Fields of `config.json` of a model of both."""

    model_type: Literal["siglip"]
    vision_config: VisionConfig = VisionConfig()
    text_config: TextConfig = TextConfig()


def read(
    content: Mapping[str, Any],
) -> tuple[VisionConfig | None, TextConfig | None]:
    """What a config says of the towers of images and texts; None for one it lacks.

    Args:
      content: of `config.json`.

    Raises:
      ConversionError: a field is not understood.
    """
    if content.get("model_type") == "siglip_vision_model":
        return VisionConfig.read(content), None
    if content.get("model_type") == "siglip_text_model":
        return None, TextConfig.read(content)
    config = Config.read(content)
    return config.vision_config, config.text_config


class Head(nnx.Module):
    """Pools the tokens: a learnt probe looks at all of them, then an MLP is added."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        width = config.hidden_size
        self.probe = nnx.Param(jnp.zeros((1, 1, width)))
        self.attention = Attention(width, config.num_attention_heads, rngs)
        self.norm = LayerNorm(width, config.layer_norm_eps)
        self.mlp = Mlp(width, config.intermediate_size, config.hidden_act, rngs)

    def __call__(self, x: Float[Array, "n t width"]) -> Float[Array, "n width"]:
        """The vector of each image."""
        at = self.attention
        probe = jnp.broadcast_to(self.probe[...], (len(x), 1, x.shape[2]))
        seen = attend(at.query(probe), at.key(x), at.value(x), heads=at.heads)
        pooled = at.out(seen)[:, 0]
        return pooled + self.mlp(self.norm(pooled))


class Vision(PatchTower):
    """The tower of images; without a head it says hidden states alone."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs, own_tokens=0, patch_bias=True)
        if config.vision_use_head:
            self.head = Head(config, rngs)

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n t width"]:
        """Last hidden states, normalised: a vector for every patch."""
        return self.norm(super().__call__(images))

    def outputs(
        self, images: Float[Array, "n h w c"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """Hidden states, and the features of each image if there is a head."""
        said = super().outputs(images)
        if "head" in vars(self):
            said["features"] = self.head(said["hidden"])
        return said


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> Model:
    """The model of a checkpoint.

    Args:
      config: content of `config.json`.
      leaves: shapes by name; they decide which towers there are.
      rngs: for the first weights.

    Returns:
      The model with weights drawn at random.

    Raises:
      ConversionError: a field of the config is not understood, or it has no tower that
        the checkpoint has.
    """
    vision, text = read(config)
    return assembled(
        vision and Vision(vision, rngs),
        text and Text(text, _projection(text, rngs), rngs),
        {"logit_bias": (1,), **leaves},
        rngs,
    )


def _projection(config: TextConfig, rngs: nnx.Rngs) -> nnx.Linear:
    width = config.hidden_size
    return nnx.Linear(width, config.projection_size or width, rngs=rngs)


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: two images, three texts, or both."""
    vision, text = read(config)
    return random_inputs(vision and vision.image_shape, text, config, key)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    vision, text = (tower and tower.num_attention_heads for tower in read(config))
    return head_counts(vision, text)
