"""CLIP with a ResNet for images, after Radford et al., arXiv 2103.00020.

The ResNet blurs where others stride, and pools by attention.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mda_jax.converters.models import open_clip
from mda_jax.converters.models.clip import ClipText, TextConfig
from mda_jax.converters.models.layers import Attention, attend, embed
from mda_jax.converters.models.resnet import ConvNorm
from mda_jax.converters.models.towers import (
    Model,
    assembled,
    check_shape,
    head_counts,
    random_inputs,
)


def blurred(
    x: Float[Array, "n h w c"], stride: int
) -> Float[Array, "n small_h small_w c"]:
    """The means of squares of `stride` by `stride` pixels, from the top left."""
    n, h, w, c = x.shape
    high, wide = h // stride, w // stride
    squares = x[:, : high * stride, : wide * stride]
    return squares.reshape(n, high, stride, wide, stride, c).mean((2, 4))


class Layer(nnx.Module):
    """Three convolutions, added to what they were given."""

    def __init__(self, given: int, narrow: int, stride: int, rngs: nnx.Rngs):
        wide = 4 * narrow
        widths = [(given, narrow, 1), (narrow, narrow, 3), (narrow, wide, 1)]
        self.path = nnx.List([ConvNorm(*step, 1, rngs) for step in widths])
        if stride > 1 or given != wide:
            self.shortcut = ConvNorm(given, wide, 1, 1, rngs)
        self.stride = stride

    def __call__(
        self, x: Float[Array, "n h w c"]
    ) -> Float[Array, "n small_h small_w wide"]:
        """Transform."""
        first, second, last = self.path
        same = self.shortcut(blurred(x, self.stride)) if "shortcut" in vars(self) else x
        x = jax.nn.relu(second(jax.nn.relu(first(x))))
        return jax.nn.relu(last(blurred(x, self.stride)) + same)


class Vision(nnx.Module):
    """The tower of images; the mean of the last map asks what to see in it."""

    def __init__(self, config: open_clip.ResNetConfig, features: int, rngs: nnx.Rngs):
        width, side = config.width, config.image_size // 32
        half = width // 2
        stem = [(3, half, 3, 2), (half, half, 3, 1), (half, width, 3, 1)]
        self.stem = nnx.List([ConvNorm(*step, rngs) for step in stem])
        stages, given = [], width
        for s, depth in enumerate(config.layers):
            narrow = width * 2**s
            widths = [(given, 2 if s else 1)] + [(4 * narrow, 1)] * (depth - 1)
            stages.append(nnx.List([Layer(g, narrow, k, rngs) for g, k in widths]))
            given = 4 * narrow
        self.stages = nnx.List(stages)
        self.position_embedding = embed(side**2 + 1, given, rngs)
        self.attention = Attention(given, config.heads, rngs)
        self.attention.out = nnx.Linear(given, features, rngs=rngs)
        self.image_shape = (config.image_size, config.image_size, 3)

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n y x c"]:
        """The last feature map, a pixel for each 32.

        Raises:
          ValueError: the images are not of the size of the model.
        """
        check_shape(images, self.image_shape)
        x = images.astype(self.attention.out.kernel[...].dtype)
        for step in self.stem:
            x = jax.nn.relu(step(x))
        x = blurred(x, 2)
        for stage in self.stages:
            for layer in stage:
                x = layer(x)
        return x

    def outputs(
        self, images: Float[Array, "n h w 3"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """The last feature map, and the features of each image."""
        hidden = self(images)
        x = hidden.reshape(len(hidden), -1, hidden.shape[-1])
        x = jnp.concatenate([x.mean(1, keepdims=True), x], 1)
        x = x + self.position_embedding.embedding[...][None]
        at = self.attention
        seen = attend(at.query(x[:, :1]), at.key(x), at.value(x), heads=at.heads)
        return {"hidden": hidden, "features": at.out(seen)[:, 0]}


def read(content: Mapping[str, Any]) -> tuple[open_clip.ResNetConfig, TextConfig]:
    """What a config says of the towers of images and texts.

    Args:
      content: of `open_clip_config.json`.

    Raises:
      ConversionError: a field is not understood.
    """
    config = open_clip.ConfigOfResNet.read(content.get("model_cfg", {}))
    return config.vision_cfg, TextConfig.read(config.text)


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> Model:
    """The model of a checkpoint.

    Args:
      config: content of `open_clip_config.json`.
      leaves: shapes by name; they decide which towers there are.
      rngs: for the first weights.

    Returns:
      The model with weights drawn at random; see `resnet.recalibrated`.

    Raises:
      ConversionError: a field of the config is not understood, or the checkpoint has
        no tower.
    """
    vision, text = read(config)
    return assembled(
        Vision(vision, text.projection_dim, rngs),
        ClipText(text, rngs, project=True),
        leaves,
        rngs,
    )


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: two images and three texts."""
    vision, text = read(config)
    shape = (vision.image_size, vision.image_size, 3)
    return random_inputs(shape, text, config, key)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    vision, text = read(config)
    return head_counts(vision.heads, text.num_attention_heads)
