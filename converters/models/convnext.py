"""ConvNeXt, after Liu et al., arXiv 2201.03545, and its second version, 2301.00808."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mda_jax.converters.models import timm
from mda_jax.converters.models.config import HubConfig, pair
from mda_jax.converters.models.layers import ACTIVATIONS, Activation, LayerNorm, Mlp


class Config(HubConfig):
    """Fields of `config.json`; the epsilon is that of the last norm."""

    model_type: Literal["convnext", "convnextv2"] = "convnext"
    num_channels: int = 3
    patch_size: int | tuple[int, int] = 4
    num_stages: int = 4
    hidden_sizes: tuple[int, ...] = (96, 192, 384, 768)
    depths: tuple[int, ...] = (3, 3, 9, 3)
    hidden_act: Activation = "gelu"
    layer_norm_eps: float = 1e-12
    image_size: int | tuple[int, int] = 224

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch of the stem, in pixels."""
        return pair(self.patch_size)

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the feature maps of a backbone."""
        return ("stem", *(f"stage{s + 1}" for s in range(self.num_stages)))


_EPS = 1e-6  # of all norms but the last


class ResponseNorm(nnx.Module):
    """Channels compete: each is scaled by its norm over the image, over their mean."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.zeros(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Normalise, and add to the input."""
        wide = x.astype(jnp.float32)
        size = jnp.sqrt(jnp.sum(wide**2, axis=(1, 2), keepdims=True))
        share = (size / (jnp.mean(size, axis=-1, keepdims=True) + 1e-6)).astype(x.dtype)
        scale, bias = (p[None, None, None] for p in (self.scale, self.bias))
        return scale * (x * share) + bias + x


class NormedMlp(Mlp):
    """An MLP whose hidden units are normalised by their response."""

    def __init__(self, width: int, hidden: int, activation: str, rngs: nnx.Rngs):
        super().__init__(width, hidden, activation, rngs)
        self.response_norm = ResponseNorm(hidden)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Transform every pixel."""
        hidden = ACTIVATIONS[self.activation](self.up(x))
        return self.down(self.response_norm(hidden))


class Layer(nnx.Module):
    """A wide filter in each channel, then an MLP, added to the input."""

    def __init__(self, config: Config, width: int, rngs: nnx.Rngs, *, scaled: bool):
        self.conv = nnx.Conv(
            width, width, (7, 7), padding=3, feature_group_count=width, rngs=rngs
        )
        self.norm = LayerNorm(width, _EPS)
        mlp = NormedMlp if config.model_type == "convnextv2" else Mlp
        self.mlp = mlp(width, 4 * width, config.hidden_act, rngs)
        self.scaled = scaled
        if scaled:
            self.scale = nnx.Param(jnp.full(width, 1e-6))

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n h w c"]:
        """Transform."""
        found = self.mlp(self.norm(self.conv(x)))
        return x + (found * self.scale[None, None, None] if self.scaled else found)


class Stem(nnx.Module):
    """Patches of the image, normalised."""

    def __init__(
        self, channels: int, width: int, patch: tuple[int, int], rngs: nnx.Rngs
    ):
        self.conv = _patches(channels, width, patch, rngs)
        self.norm = LayerNorm(width, _EPS)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n a b d"]:
        """Make an image of the patches."""
        return self.norm(self.conv(x))


class Downsample(nnx.Module):
    """One pixel of every four."""

    def __init__(self, given: int, width: int, rngs: nnx.Rngs):
        self.norm = LayerNorm(given, _EPS)
        self.conv = _patches(given, width, (2, 2), rngs)

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n a b d"]:
        """Normalise and merge."""
        return self.conv(self.norm(x))


class Stage(nnx.Module):
    """Layers of one width; in all but the first stage the image is halved before."""

    def __init__(
        self,
        config: Config,
        s: int,
        leaves: Mapping[str, tuple[int, ...]],
        rngs: nnx.Rngs,
    ):
        width = config.hidden_sizes[s]
        if s:
            self.downsample = Downsample(config.hidden_sizes[s - 1], width, rngs)
        scaled = f"stages/{s}/layers/0/scale" in leaves
        layers = range(config.depths[s])
        self.layers = nnx.List(
            [Layer(config, width, rngs, scaled=scaled) for _ in layers]
        )

    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n a b d"]:
        """Transform the image."""
        x = self.downsample(x) if "downsample" in vars(self) else x
        for layer in self.layers:
            x = layer(x)
        return x


class ConvNext(nnx.Module):
    """The encoder, with a classifier or the norms of a backbone if there are any."""

    def __init__(
        self,
        config: Config,
        leaves: Mapping[str, tuple[int, ...]],
        rngs: nnx.Rngs,
    ):
        widths = config.hidden_sizes
        self.stem = Stem(config.num_channels, widths[0], config.patch, rngs)
        stages = range(config.num_stages)
        self.stages = nnx.List([Stage(config, s, leaves, rngs) for s in stages])
        norms = {
            name: LayerNorm(width, _EPS)
            for name, width in zip(config.features, (widths[0], *widths), strict=True)
            if f"feature_norms/{name}/scale" in leaves
        }
        if norms:
            self.feature_norms = nnx.Dict(norms)
        else:
            self.norm = LayerNorm(widths[-1], config.layer_norm_eps)
        if "classifier/kernel" in leaves:
            classes = leaves["classifier/kernel"][1]
            self.classifier = nnx.Linear(widths[-1], classes, rngs=rngs)
        self.features = config.features

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
        """What the encoder and the head say; a backbone also its feature maps.

        Args:
          images: as for a call.
        """
        maps = [self.stem(images.astype(self.stem.conv.kernel.dtype))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        said = {"hidden": maps[-1]}
        if "feature_norms" in vars(self):
            named = dict(zip(self.features, maps, strict=True))
            return said | {n: norm(named[n]) for n, norm in self.feature_norms.items()}
        said["pooled"] = self.norm(jnp.mean(maps[-1], axis=(1, 2)))
        if "classifier" in vars(self):
            said["logits"] = self.classifier(said["pooled"])
        return said


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> ConvNext:
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
    return ConvNext(Config.read(known), leaves, rngs)


# Others with tensors of the same names have another stem, norm or epsilon.
_ARCHITECTURES = re.compile(r"convnext(?:v2)?_(?:tiny|small|base|large|xlarge|huge)")


def _seen(leaves: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """What the shapes of the leaves tell."""
    high, wide, channels, _ = timm.shape(leaves, "stem/conv/kernel")
    depths = timm.depths(leaves)
    second = "stages/0/layers/0/mlp/response_norm/scale" in leaves
    return {
        "model_type": "convnextv2" if second else "convnext",
        "num_channels": channels,
        "patch_size": (high, wide),
        "num_stages": len(depths),
        "hidden_sizes": [
            timm.shape(leaves, f"stages/{s}/layers/0/norm/scale")[0]
            for s in range(len(depths))
        ],
        "depths": depths,
        "layer_norm_eps": 1e-6,
    }


def _patches(
    given: int, width: int, patch: tuple[int, int], rngs: nnx.Rngs
) -> nnx.Conv:
    return nnx.Conv(given, width, patch, strides=patch, padding="VALID", rngs=rngs)


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: two images of 224 pixels, unless the config has another size."""
    read = Config.read(
        config if "model_type" in config else timm.stated(config, _ARCHITECTURES)
    )
    high, wide = pair(read.image_size)
    return (jax.random.normal(key, (2, high, wide, read.num_channels)),)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Nothing: no transform needs a number of a ConvNeXt."""
    return {}
