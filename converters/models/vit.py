"""Vision transformers, after Dosovitskiy et al., arXiv 2010.11929."""

import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.models import timm
from mda_jax.converters.models.config import HubConfig, pair
from mda_jax.converters.models.layers import (
    ACTIVATIONS,
    Activation,
    Attention,
    GatedMlp,
    LayerNorm,
    Mlp,
)


class VisionConfig(HubConfig):
    """Fields that ViT and DINOv2 share; `global_pool` is timm's."""

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Activation = "gelu"
    layer_norm_eps: float = 1e-6
    image_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 16
    num_channels: int = 3
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    num_register_tokens: int = 0
    pooler_output_size: int | None = None
    pooler_act: Activation = "tanh"
    global_pool: Literal["token", "avg"] | None = None

    @property
    def mlp_width(self) -> int:
        """Units of the MLPs."""
        return self.intermediate_size

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch, in pixels."""
        return pair(self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches that have a place of their own."""
        high, wide = pair(self.image_size)
        return high // self.patch[0], wide // self.patch[1]


class Config(VisionConfig):
    """Fields of `config.json` of ViT."""

    model_type: Literal["vit"] = "vit"
    layer_norm_eps: float = 1e-12


class Layer(nnx.Module):
    """Attention and MLP, each of the normalised tokens and added to them."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs, *, scaled: bool):
        width, eps = config.hidden_size, config.layer_norm_eps
        self.attention_norm = LayerNorm(width, eps)
        self.attention = Attention(
            width,
            config.num_attention_heads,
            rngs,
            use_bias=config.qkv_bias,
            out_bias=True,
        )
        self.mlp_norm = LayerNorm(width, eps)
        if config.use_swiglu_ffn:
            self.gated_mlp = GatedMlp(width, config.mlp_width, "silu", rngs)
        else:
            self.mlp = Mlp(width, config.mlp_width, config.hidden_act, rngs)
        self.scaled = scaled
        if scaled:
            self.attention_scale = nnx.Param(jnp.ones(width))
            self.mlp_scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "n t width"]) -> Float[Array, "n t width"]:
        """Transform the tokens."""
        found = self.attention(self.attention_norm(x))
        x = x + (found * self.attention_scale[None, None] if self.scaled else found)
        mlp = self.mlp if "mlp" in vars(self) else self.gated_mlp
        found = mlp(self.mlp_norm(x))
        return x + (found * self.mlp_scale[None, None] if self.scaled else found)


class Vit(nnx.Module):
    """The encoder, with those heads that the checkpoint has."""

    def __init__(
        self,
        config: VisionConfig,
        leaves: Mapping[str, tuple[int, ...]],
        rngs: nnx.Rngs,
    ):
        def tokens(number: int) -> nnx.Param[Array]:
            return nnx.Param(0.02 * rngs.normal((1, number, width)))

        width, patches = config.hidden_size, math.prod(config.grid)
        places = leaves.get("position_embedding", (1, 0))[1]
        has_class = "class_token" in leaves
        self.config, self.own = config, int(has_class and places != patches)
        self.patch = nnx.Conv(
            config.num_channels,
            width,
            config.patch,
            strides=config.patch,
            padding="VALID",
            rngs=rngs,
        )
        self.position_embedding = tokens(self.own + patches)
        if has_class:
            self.class_token = tokens(1)
        if config.num_register_tokens:
            self.register_tokens = tokens(config.num_register_tokens)
        if "mask_token" in leaves:  # of the training; the forward does not use it
            self.mask_token = nnx.Param(jnp.zeros(leaves["mask_token"]))
        scaled = "layers/0/attention_scale" in leaves
        layers = range(config.num_hidden_layers)
        self.layers = nnx.List([Layer(config, rngs, scaled=scaled) for _ in layers])
        norm = LayerNorm(width, config.layer_norm_eps)
        if "pooled_norm/scale" in leaves:
            self.pooled_norm = norm
        else:
            self.norm = norm
        if "pooler/kernel" in leaves:
            pooled = config.pooler_output_size or width
            self.pooler = nnx.Linear(width, pooled, rngs=rngs)
        if "classifier/kernel" in leaves:
            seen, classes = leaves["classifier/kernel"]
            self.both = seen == 2 * width
            self.classifier = nnx.Linear((1 + self.both) * width, classes, rngs=rngs)

    def __call__(
        self, images: Float[Array, "n height width channels"]
    ) -> Float[Array, "n ..."]:
        """Logits of a classifier; else the last hidden states.

        Args:
          images: of any size; the places of the patches are resampled where it is not
            that of the training.
        """
        said = self.outputs(images)
        return said.get("logits", said["hidden"])

    def outputs(
        self, images: Float[Array, "n height width channels"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """What the encoder and each of the heads say.

        Args:
          images: as for a call.
        """
        x = self._embedded(images)
        for layer in self.layers:
            x = layer(x)
        hidden = self.norm(x) if self._has("norm") else x
        said = {"hidden": hidden}
        if self._has("pooler"):
            activation = ACTIVATIONS[self.config.pooler_act]
            said["pooled"] = activation(self.pooler(hidden[:, 0]))
        if self._has("classifier"):
            said["logits"] = self.classifier(self._features(hidden))
        return said

    def _has(self, part: str) -> bool:
        return part in vars(self)

    def _embedded(self, images: Array) -> Array:
        """The patches in their places, after the class token and the registers."""
        x = self.patch(images.astype(self.position_embedding.dtype))
        n, rows, columns, width = x.shape
        places = self._places(rows, columns)
        tokens = [x.reshape(n, -1, width) + places[:, self.own :]]
        if self._has("register_tokens"):
            tokens.insert(0, self.register_tokens[...])
        if self._has("class_token"):
            first = self.class_token[...]
            tokens.insert(0, first + places[:, :1] if self.own else first)
        shared = [jnp.broadcast_to(t, (n, *t.shape[1:])) for t in tokens]
        return jnp.concatenate(shared, axis=1)

    def _places(self, rows: int, columns: int) -> Array:
        """The position embeddings for an image of this many patches."""
        places = self.position_embedding[...]
        if (rows, columns) == self.config.grid:
            return places
        table = places[:, self.own :].reshape(*self.config.grid, -1)
        resample = smooth if self._has("register_tokens") else bicubic
        table = resample(table.astype(jnp.float32), rows, columns)
        table = table.astype(places.dtype).reshape(1, rows * columns, -1)
        return jnp.concatenate([places[:, : self.own], table], axis=1)

    def _features(self, hidden: Array) -> Array:
        """What the classifier sees of the last hidden states."""
        registers = self.config.num_register_tokens
        patches = hidden[:, registers + self._has("class_token") :]
        mean = jnp.mean(patches, axis=1)
        if self.both:
            return jnp.concatenate([hidden[:, 0], mean], axis=-1)
        normed, pool = self._has("pooled_norm"), self.config.global_pool
        averages = normed or not self._has("class_token")
        average = averages if pool is None else pool == "avg"
        pooled = mean if average else hidden[:, 0]
        return self.pooled_norm(pooled) if normed else pooled


def smooth(
    table: Float[Array, "h w width"], rows: int, columns: int
) -> Float[Array, "rows columns width"]:
    """Resample as PyTorch's bicubic interpolation with `antialias`.

    Args:
      table: to resample.
      rows: wanted.
      columns: wanted.

    Returns:
      The table at the new places.
    """
    return jax.image.resize(table, (rows, columns, table.shape[-1]), "cubic")


def bicubic(
    table: Float[Array, "h w width"], rows: int, columns: int
) -> Float[Array, "rows columns width"]:
    """Resample as PyTorch's bicubic interpolation: not smoothed, its edges repeated.

    Args:
      table: to resample.
      rows: wanted.
      columns: wanted.

    Returns:
      The table at the new places.
    """
    down, across = _cubic(table.shape[0], rows), _cubic(table.shape[1], columns)
    return jnp.einsum("rh,cw,hwd->rcd", down, across, table)


def _cubic(old: int, new: int) -> Float[Array, "new old"]:
    """Weights of the old samples in the new ones; the free parameter is -3/4."""
    at = (np.arange(new) + 0.5) * old / new - 0.5
    weights = np.zeros((new, old))
    for step in (-1, 0, 1, 2):
        near = np.floor(at) + step
        far = np.abs(at - near)
        inside = (1.25 * far - 2.25) * far**2 + 1
        outside = -0.75 * (((far - 5) * far + 8) * far - 4)
        place = np.clip(near, 0, old - 1).astype(int)
        weights[np.arange(new), place] += np.where(far <= 1, inside, outside)
    return jnp.asarray(weights, jnp.float32)


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> Vit:
    """The model of a checkpoint.

    Args:
      config: content of `config.json` of transformers or of timm. Without such a file
        only what weights do not tell has to be stated: `num_attention_heads`, and
        `layer_norm_eps`, `hidden_act` or `global_pool` where they are not 1e-6, "gelu"
        and "token".
      leaves: shapes by name; they decide which heads there are.
      rngs: for the first weights.

    Returns:
      The model with weights drawn at random.

    Raises:
      ConversionError: a field of the config is not understood, or the heads are not
        known.
    """
    return Vit(described(Config, config, leaves), leaves, rngs)


def described(
    kind: type[VisionConfig],
    config: Mapping[str, Any],
    leaves: Mapping[str, tuple[int, ...]],
) -> VisionConfig:
    """The numbers of a model, from its config and, for other libraries, its weights.

    Args:
      kind: of the config.
      config: as for `build`.
      leaves: the same.

    Raises:
      ConversionError: the same.
    """
    stated = _stated(config)
    if "model_type" in config:
        return kind.read(stated)
    return kind.read(_seen(leaves, stated.get("image_size")) | stated)


def _stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config, with the number of heads if it is of no transformers."""
    if "architecture" in config:
        read = timm.read(config, _ARCHITECTURES)
        return {
            "num_attention_heads": _heads(read.architecture),
            "global_pool": read.global_pool or None,
        }
    if not {"model_type", "num_attention_heads"} & set(config):
        raise ConversionError(
            "the weights of a vision transformer do not tell its number of heads; state"
            " 'num_attention_heads' in a config.json."
        )
    return dict(config)


_HEADS = {
    "tiny": 3,
    "wee": 4,
    "little": 5,
    "small": 6,
    "medium": 8,
    "mediumd": 8,
    "betwixt": 10,
    "base": 12,
    "large": 16,
    "huge": 16,
    "giant": 16,
    "gigantic": 16,
}
# Others with tensors of the same names have another activation, MLP or block.
_ARCHITECTURES = re.compile(
    rf"(?:vit|deit3?)_(?:{'|'.join(_HEADS)})_patch\d+"
    r"(?:_reg\d)?(?:_gap|(?<!giant_patch14)(?<!giant_patch14_reg4)_dinov2)?"
    r"(?:_\d+)?(?:_miil)?"
)


def _heads(architecture: str) -> int:
    if architecture == "vit_base_patch16_gap_224":
        return 16
    return _HEADS[architecture.split("_")[1]]


def _seen(
    leaves: Mapping[str, tuple[int, ...]], image_size: int | tuple[int, int] | None
) -> dict[str, Any]:
    """What the shapes of the leaves tell; images are square unless stated."""
    high, wide, channels, width = timm.shape(leaves, "patch/kernel")
    side = math.isqrt(timm.shape(leaves, "position_embedding")[1])
    layers = {name.split("/")[1] for name in leaves if name.startswith("layers/")}
    return {
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "intermediate_size": timm.shape(leaves, "layers/0/mlp/up/kernel")[1],
        "layer_norm_eps": 1e-6,
        "image_size": image_size or (side * high, side * wide),
        "patch_size": (high, wide),
        "num_channels": channels,
        "qkv_bias": "layers/0/attention/query/bias" in leaves,
        "num_register_tokens": leaves.get("register_tokens", (1, 0))[1],
    }


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: two images, of 224 pixels unless the config states a size."""
    return images(Config, config, key)


def images(
    kind: type[VisionConfig], config: Mapping[str, Any], key: Array
) -> tuple[Array, ...]:
    """Two random images of the size and channels that a config states.

    Args:
      kind: of the config.
      config: as for `build`.
      key: of the random numbers.
    """
    read = kind.read(_stated(config))
    size = *pair(read.image_size), read.num_channels
    return (jax.random.normal(key, (2, *size)),)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    return heads(Config, config)


def heads(kind: type[VisionConfig], config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads that a config states.

    Args:
      kind: of the config.
      config: as for `build`.
    """
    number = kind.read(_stated(config)).num_attention_heads
    return {"heads": number, "kv_heads": number}
