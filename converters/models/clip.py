"""CLIP, after Radford et al., arXiv 2103.00020."""

from collections.abc import Mapping
from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import model_validator

from mda_jax.converters.models import open_clip
from mda_jax.converters.models.config import HubConfig
from mda_jax.converters.models.layers import Activation, LayerNorm
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

    model_type: Literal["clip_vision_model"] = "clip_vision_model"
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_attention_heads: int = 12
    patch_size: int = 32
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 512


class TextConfig(TextTowerConfig):
    """Fields of the tower of texts."""

    model_type: Literal["clip_text_model"] = "clip_text_model"
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    vocab_size: int = 49408
    max_position_embeddings: int = 77
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: float = 1e-5
    projection_dim: int = 512
    eos_token_id: int = 49407

    @property
    def end(self) -> int | None:
        """The token that ends a text; the one with the highest id if None.

        Files from before transformers 4.31 state 2 and mean the highest.
        """
        return None if self.eos_token_id == 2 else self.eos_token_id


class Config(HubConfig):
    """Fields of `config.json` of a model of both."""

    model_type: Literal["clip"]
    projection_dim: int = 512
    vision_config: VisionConfig = VisionConfig()
    text_config: TextConfig = TextConfig()

    @model_validator(mode="before")
    @classmethod
    def _older(cls, content: Mapping[str, Any]) -> dict[str, Any]:
        """Old files may have a tower twice; `*_config_dict` and its defaults count."""
        fields = {name: value for name, value in content.items() if value is not None}
        for name, kind in (
            ("vision_config", VisionConfig),
            ("text_config", TextConfig),
        ):
            stated = fields.pop(f"{name}_dict", None)
            if stated is not None:
                fields[name] = fields.get(name, {}) | kind().model_dump() | stated
        return fields


def read(
    content: Mapping[str, Any],
) -> tuple[VisionConfig | None, TextConfig | None]:
    """What a config says of the towers of images and texts; None for one it lacks.

    Args:
      content: of `config.json`, or of `open_clip_config.json`.

    Raises:
      ConversionError: a field is not understood.
    """
    if content.get("model_type") == "clip_vision_model":
        return VisionConfig.read(content), None
    if content.get("model_type") == "clip_text_model":
        return None, TextConfig.read(content)
    config = Config.read(
        open_clip.as_hub(content) if "model_cfg" in content else content
    )
    width = {"projection_dim": config.projection_dim}
    return (
        config.vision_config.model_copy(update=width),
        config.text_config.model_copy(update=width),
    )


class Vision(PatchTower):
    """The tower of images; a token of its own stands for the image."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, *, project: bool):
        super().__init__(config, rngs, own_tokens=1, patch_bias=False)
        width = config.hidden_size
        self.class_token = nnx.Param(jnp.zeros(width))
        self.first_norm = LayerNorm(width, config.layer_norm_eps)
        if project:
            self.projection = _projection(config, rngs)

    def tokens(self, images: Float[Array, "n h w c"]) -> Float[Array, "n t width"]:
        """The image's own token, then its patches, normalised."""
        patches = self.patch(images)
        first = jnp.broadcast_to(
            self.class_token[...][None, None], (len(patches), 1, patches.shape[2])
        )
        x = jnp.concatenate([first, patches], 1)
        return self.first_norm(x + self.position_embedding.embedding[...][None])

    def outputs(
        self, images: Float[Array, "n h w c"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """Hidden states, the vector of each image, and its features if projected."""
        hidden = self(images)
        pooled = self.norm(hidden[:, 0])
        said = {"hidden": hidden, "pooled": pooled}
        if "projection" in vars(self):
            said["features"] = self.projection(pooled)
        return said

    def patches(self, hidden: Float[Array, "n t width"]) -> Float[Array, "n s width"]:
        """The tokens of patches among the hidden states: all but the first."""
        return hidden[:, 1:]


class ClipText(Text):
    """The tower of texts: tokens look back alone, and the end stands for the text."""

    def __init__(self, config: TextConfig, rngs: nnx.Rngs, *, project: bool):
        projection = _projection(config, rngs) if project else None
        super().__init__(config, projection, rngs)
        self.end = config.end

    def sight(self, mask: Int[Array, "n t"]) -> Bool[Array, "n 1 t t"]:
        """Where each token looks: at those up to itself but padding."""
        places = jnp.arange(mask.shape[1])
        return super().sight(mask) & (places[:, None] >= places[None])[None, None]

    def last(self, tokens: Int[Array, "n t"]) -> Int[Array, " n"]:
        """The place of the first token that ends the text."""
        return (tokens if self.end is None else tokens == self.end).argmax(1)


def _projection(config: VisionConfig | TextConfig, rngs: nnx.Rngs) -> nnx.Linear:
    width = config.hidden_size
    return nnx.Linear(width, config.projection_dim, use_bias=False, rngs=rngs)


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> Model:
    """The model of a checkpoint.

    Args:
      config: content of `config.json`, or of `open_clip_config.json`.
      leaves: shapes by name; they decide which towers and heads there are.
      rngs: for the first weights.

    Returns:
      The model with weights drawn at random.

    Raises:
      ConversionError: a field of the config is not understood, or it has no tower that
        the checkpoint has.
    """
    vision, text = read(config)
    both = "logit_scale" in leaves
    of_images, of_texts = (
        both
        or f"{name}/projection/kernel" in leaves
        or (tower is not None and tower.is_for("WithProjection"))
        for name, tower in (("vision", vision), ("text", text))
    )
    return assembled(
        vision and Vision(vision, rngs, project=of_images),
        text and ClipText(text, rngs, project=of_texts),
        leaves,
        rngs,
    )


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: two images, three texts, or both."""
    vision, text = read(config)
    return random_inputs(vision and vision.image_shape, text, config, key)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    vision, text = (tower and tower.num_attention_heads for tower in read(config))
    return head_counts(vision, text)
