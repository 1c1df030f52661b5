"""Residual networks, after He et al., arXiv 1512.03385; strides as in torchvision."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mda_jax.converters.models import timm
from mda_jax.converters.models.config import HubConfig
from mda_jax.converters.models.layers import ACTIVATIONS, Activation


Model = TypeVar("Model", bound=nnx.Module)


class Config(HubConfig):
    """Fields of `config.json`."""

    model_type: Literal["resnet"] = "resnet"
    num_channels: int = 3
    embedding_size: int = 64
    hidden_sizes: tuple[int, ...] = (256, 512, 1024, 2048)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    hidden_act: Activation = "relu"
    downsample_in_first_stage: bool = False
    downsample_in_bottleneck: bool = False


class ConvNorm(nnx.Module):
    """A convolution without bias, and batch normalisation."""

    def __init__(self, given: int, wide: int, size: int, stride: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            given,
            wide,
            (size, size),
            strides=stride,
            padding=size // 2,
            use_bias=False,
            rngs=rngs,
        )
        self.norm = nnx.BatchNorm(
            wide, use_running_average=True, momentum=0.9, rngs=rngs
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n a b d"]:
        """Filter and normalise."""
        return self.norm(self.conv(x))


class Layer(nnx.Module):
    """Convolutions, added to what they were given."""

    def __init__(
        self, config: Config, given: int, wide: int, stride: int, rngs: nnx.Rngs
    ):
        if config.layer_type == "basic":
            steps = [(wide, 3, stride), (wide, 3, 1)]
        else:
            first = stride if config.downsample_in_bottleneck else 1
            narrow = wide // 4
            steps = [(narrow, 1, first), (narrow, 3, stride // first), (wide, 1, 1)]
        widths = [given, *(step[0] for step in steps)]
        self.path = nnx.List(
            [ConvNorm(w, *step, rngs) for w, step in zip(widths, steps, strict=False)]
        )
        if given != wide or stride != 1:
            self.shortcut = ConvNorm(given, wide, 1, stride, rngs)
        self.activation = config.hidden_act

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n a b d"]:
        """Transform; between the convolutions the activation is always ReLU."""
        same = self.shortcut(x) if "shortcut" in vars(self) else x
        *first, last = self.path
        for convolution in first:
            x = jax.nn.relu(convolution(x))
        return ACTIVATIONS[self.activation](last(x) + same)


class ResNet(nnx.Module):
    """The encoder, with a classifier if the checkpoint has one.

    `model.train()` makes it normalise by the batch and update its statistics;
    `model.eval()`, the state it is built in, by the statistics.
    """

    def __init__(
        self,
        config: Config,
        leaves: Mapping[str, tuple[int, ...]],
        rngs: nnx.Rngs,
    ):
        self.stem = ConvNorm(config.num_channels, config.embedding_size, 7, 2, rngs)
        self.activation = config.hidden_act
        stages, given = [], config.embedding_size
        for s, (wide, depth) in enumerate(
            zip(config.hidden_sizes, config.depths, strict=True)
        ):
            halved = 2 if s or config.downsample_in_first_stage else 1
            widths = [(given, halved)] + [(wide, 1)] * (depth - 1)
            stages.append(
                nnx.List([Layer(config, g, wide, k, rngs) for g, k in widths])
            )
            given = wide
        self.stages = nnx.List(stages)
        if "classifier/kernel" in leaves:
            classes = leaves["classifier/kernel"][1]
            self.classifier = nnx.Linear(given, classes, rngs=rngs)

    def __call__(
        self, images: Float[Array, "n height width channels"]
    ) -> Float[Array, "n ..."]:
        """Logits of a classifier; else the last feature map.

        Args:
          images: of any size.
        """
        said = self.outputs(images)
        return said.get("logits", said["hidden"])

    def outputs(
        self, images: Float[Array, "n height width channels"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """What the encoder and the head say.

        Args:
          images: as for a call.
        """
        x = self.stem(images.astype(self.stem.conv.kernel.dtype))
        edge = (1, 1)
        x = nnx.max_pool(
            ACTIVATIONS[self.activation](x), (3, 3), (2, 2), padding=(edge, edge)
        )
        for stage in self.stages:
            for layer in stage:
                x = layer(x)
        pooled = jnp.mean(x, axis=(1, 2))
        said = {"hidden": x, "pooled": pooled}
        if "classifier" in vars(self):
            said["logits"] = self.classifier(pooled)
        return said


def recalibrated(
    model: Model, batches: Iterable[Float[Array, "n height width channels"]]
) -> Model:
    """A model with its batch statistics averaged over new batches.

    Merged statistics are those of no data; a few hundred images without labels give a
    merged model its own.

    Args:
      model: with batch normalisation; it is not changed.
      batches: of images; at least one.

    Returns:
      A copy.

    Raises:
      ValueError: there are no batches.
    """
    measuring, averaged = nnx.clone(model), nnx.clone(model)
    measuring.train(momentum=0.0)

    @jax.jit
    def seen(model: Any, images: Array) -> Any:
        model(images)
        return nnx.state(model, nnx.BatchStat)

    found = [seen(measuring, images) for images in batches]
    if not found:
        raise ValueError("recalibrated: there are no batches; give at least one.")
    nnx.update(averaged, jax.tree.map(lambda *each: sum(each) / len(each), *found))
    return averaged


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> ResNet:
    """The model of a checkpoint.

    Args:
      config: content of `config.json` of transformers or of timm; without one, shapes
        tell all.
      leaves: shapes by name.
      rngs: for the first weights.

    Returns:
      The model with weights drawn at random.

    Raises:
      ConversionError: a field of the config is not understood.
    """
    known = timm.described(config, leaves, _seen, _ARCHITECTURES)
    return ResNet(Config.read(known), leaves, rngs)


# Others with tensors of the same names have blurred strides or grouped convolutions.
_ARCHITECTURES = re.compile(r"resnet(?:18|26|34|50|101|152|200)")


def _seen(leaves: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the shapes of the leaves tell."""
    depths = timm.depths(leaves)
    last = 2 if "stages/0/0/path/2/conv/kernel" in leaves else 1
    _, _, channels, embedding = timm.shape(leaves, "stem/conv/kernel")
    return {
        "num_channels": channels,
        "embedding_size": embedding,
        "hidden_sizes": [
            timm.shape(leaves, f"stages/{s}/0/path/{last}/conv/kernel")[-1]
            for s in range(len(depths))
        ],
        "depths": depths,
        "layer_type": "bottleneck" if last == 2 else "basic",
    }


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: two images of 224 pixels."""
    read = Config.read(timm.stated(config, _ARCHITECTURES))
    return (jax.random.normal(key, (2, 224, 224, read.num_channels)),)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Nothing: no transform needs a number of a ResNet."""
    return {}
