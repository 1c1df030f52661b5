"""Vision transformers, after Dosovitskiy et al., arXiv 2010.11929."""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.models import timm
from mda_jax.converters.models.config import HubConfig
from mda_jax.converters.models.layers import ACTIVATIONS, Attention, GatedMlp, Mlp


class VisionConfig(HubConfig):
    """Fields that ViT and DINOv2 share.

    Those from `class_token` on stand in no `config.json` of transformers; the weights
    of other libraries tell them.
    """

    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-6
    image_size: int | tuple[int, int] = 224
    patch_size: int | tuple[int, int] = 16
    num_channels: int = 3
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    num_register_tokens: int = 0
    pooler_output_size: int | None = None
    pooler_act: str = "tanh"
    class_token: bool = True
    class_has_place: bool = True
    layer_scale: bool = False
    pooled_norm: bool = False
    global_pool: Literal["token", "avg"] = "token"

    @property
    def mlp_width(self) -> int:
        """Units of the MLPs."""
        return self.intermediate_size

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width of a patch, in pixels."""
        return _pair(self.patch_size)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patches that have a place of their own."""
        high, wide = _pair(self.image_size)
        return high // self.patch[0], wide // self.patch[1]

    @property
    def smooth(self) -> bool:
        """Whether places are smoothed before there are fewer of them."""
        return False


class Config(VisionConfig):
    """Fields of `config.json` of ViT."""

    model_type: Literal["vit"] = "vit"
    layer_norm_eps: float = 1e-12
    encoder_stride: int = 16


class Layer(nnx.Module):
    """Attention and MLP, each of the normalised tokens and added to them."""

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        width, heads = config.hidden_size, config.num_attention_heads
        norm = partial(nnx.LayerNorm, width, epsilon=config.layer_norm_eps, rngs=rngs)
        self.attention_norm, self.mlp_norm = norm(), norm()
        self.attention = Attention(
            width, heads, rngs, use_bias=config.qkv_bias, out_bias=True
        )
        self.mlp: GatedMlp | Mlp
        if config.use_swiglu_ffn:
            self.mlp = GatedMlp(width, config.mlp_width, "silu", rngs)
        else:
            self.mlp = Mlp(width, config.mlp_width, config.hidden_act, rngs)
        if config.layer_scale:
            self.attention_scale = nnx.Param(jnp.ones(width))
            self.mlp_scale = nnx.Param(jnp.ones(width))
        self.scaled = config.layer_scale

    def __call__(self, x: Float[Array, "n t width"]) -> Float[Array, "n t width"]:
        """Transform the tokens."""
        found = self.attention(self.attention_norm(x))
        x = x + (found * self.attention_scale if self.scaled else found)
        found = self.mlp(self.mlp_norm(x))
        return x + (found * self.mlp_scale if self.scaled else found)


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

        width = config.hidden_size
        self.config, self.own = config, int(config.class_token and config.class_has_place)
        self.patch = nnx.Conv(
            config.num_channels,
            width,
            config.patch,
            strides=config.patch,
            padding="VALID",
            rngs=rngs,
        )
        self.position_embedding = tokens(self.own + math.prod(config.grid))
        if config.class_token:
            self.class_token = tokens(1)
        if config.num_register_tokens:
            self.register_tokens = tokens(config.num_register_tokens)
        if "mask_token" in leaves:  # of the training; the forward does not use it
            self.mask_token = nnx.Param(jnp.zeros(leaves["mask_token"]))
        layers = range(config.num_hidden_layers)
        self.layers = nnx.List([Layer(config, rngs) for _ in layers])
        norm = nnx.LayerNorm(width, epsilon=config.layer_norm_eps, rngs=rngs)
        setattr(self, "pooled_norm" if config.pooled_norm else "norm", norm)
        if "pooler/kernel" in leaves:
            pooled = config.pooler_output_size or width
            self.pooler = nnx.Linear(width, pooled, rngs=rngs)
        if "classifier/kernel" in leaves:
            given, classes = leaves["classifier/kernel"]
            self.both = given == 2 * width
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
        hidden = x if self.config.pooled_norm else self.norm(x)
        said = {"hidden": hidden}
        if "pooler" in vars(self):
            activation = ACTIVATIONS[self.config.pooler_act]
            said["pooled"] = activation(self.pooler(hidden[:, 0]))
        if "classifier" in vars(self):
            said["logits"] = self.classifier(self._features(hidden))
        return said

    def _embedded(self, images: Array) -> Array:
        """The patches in their places, after the class token and the registers."""
        x = self.patch(images.astype(self.position_embedding.dtype))
        n, *grid, width = x.shape
        places = self._places(*grid)
        tokens = [x.reshape(n, -1, width) + places[:, self.own :]]
        if self.config.num_register_tokens:
            tokens.insert(0, self.register_tokens[...])
        if self.config.class_token:
            first = self.class_token[...]
            tokens.insert(0, first + places[:, :1] if self.own else first)
        shared = (jnp.broadcast_to(t, (n, *t.shape[1:])) for t in tokens)
        return jnp.concatenate(list(shared), axis=1)

    def _places(self, rows: int, columns: int) -> Array:
        """The position embeddings for an image of this many patches."""
        places = self.position_embedding[...]
        if (rows, columns) == self.config.grid:
            return places
        table = places[:, self.own :].reshape(*self.config.grid, -1)
        if self.config.smooth:
            resampled = jax.image.resize(
                table.astype(jnp.float32), (rows, columns, table.shape[-1]), "cubic"
            )
        else:
            down, across = map(cubic, self.config.grid, (rows, columns))
            resampled = jnp.einsum(
                "rh,cw,hwd->rcd", down, across, table.astype(jnp.float32)
            )
        resampled = resampled.astype(places.dtype).reshape(1, rows * columns, -1)
        return jnp.concatenate([places[:, : self.own], resampled], axis=1)

    def _features(self, hidden: Array) -> Array:
        """What the classifier sees of the last hidden states."""
        first = int(self.config.class_token) + self.config.num_register_tokens
        mean = jnp.mean(hidden[:, first:], axis=1)
        if self.both:
            return jnp.concatenate([hidden[:, 0], mean], axis=-1)
        pooled = mean if self.config.global_pool == "avg" else hidden[:, 0]
        return self.pooled_norm(pooled) if self.config.pooled_norm else pooled


def cubic(old: int, new: int) -> Float[Array, "new old"]:
    """Weights of bicubic resampling as PyTorch's: without smoothing, ends repeated.

    Args:
      old: number of samples there are.
      new: number of samples wanted.

    Returns:
      A matrix that resamples.
    """
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


def described[C: VisionConfig](
    kind: type[C], config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]]
) -> C:
    """The numbers of a model, from its config and, for other libraries, its weights.

    Args:
      kind: of the config.
      config: as for `build`.
      leaves: the same.
    """
    if "model_type" in config:
        return kind.read(config)
    known = stated(config)
    return kind.read(_seen(leaves, known.get("image_size")) | known)


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a config without `model_type` says: one of timm, or fields by hand.

    Args:
      config: as for `build`.

    Returns:
      Fields of our own config, with the number of heads among them.

    Raises:
      ConversionError: that number is not known.
    """
    if "architecture" in config:
        read = timm.read(config, _ARCHITECTURES)
        pool = {"global_pool": read.global_pool} if read.global_pool else {}
        return {"num_attention_heads": _heads(read.architecture)} | pool
    if "num_attention_heads" not in config:
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
# Others of the same names of tensors have another activation, block or MLP.
_ARCHITECTURES = re.compile(
    rf"(?:vit|deit3?)_({'|'.join(_HEADS)})_patch\d+"
    r"(?:_reg\d)?(?:_gap|(?<!giant_patch14)(?<!reg4)_dinov2)?(?:_\d+)?(?:_miil)?"
)


def _heads(architecture: str) -> int:
    if architecture == "vit_base_patch16_gap_224":
        return 16
    return _HEADS[architecture.split("_")[1]]


def _seen(
    leaves: Mapping[str, tuple[int, ...]], image_size: int | tuple[int, int] | None
) -> dict[str, Any]:
    """What the shapes of the leaves tell."""
    needed = "patch/kernel", "position_embedding", "layers/0/mlp/up/kernel"
    if missing := [name for name in needed if name not in leaves]:
        raise ConversionError(f"the leaf {missing[0]!r} is missing.")
    high, wide, channels, width = leaves["patch/kernel"]
    places, class_token = leaves["position_embedding"][1], "class_token" in leaves
    if image_size is None:
        own = class_token and math.isqrt(places) ** 2 != places
        side = math.isqrt(places - own)
        image_size = side * high, side * wide
    else:
        rows, columns = _pair(image_size)
        own = class_token and (rows // high) * (columns // wide) != places
    averages = "pooled_norm/scale" in leaves or not class_token
    layers = {int(name.split("/")[1]) for name in leaves if name.startswith("layers/")}
    return {
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "intermediate_size": leaves["layers/0/mlp/up/kernel"][1],
        "layer_norm_eps": 1e-6,
        "image_size": image_size,
        "patch_size": (high, wide),
        "num_channels": channels,
        "qkv_bias": "layers/0/attention/query/bias" in leaves,
        "num_register_tokens": leaves.get("register_tokens", (1, 0))[1],
        "class_token": class_token,
        "class_has_place": own,
        "layer_scale": "layers/0/attention_scale" in leaves,
        "pooled_norm": "pooled_norm/scale" in leaves,
        "global_pool": "avg" if averages else "token",
    }


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


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
    read = kind.read(config if "model_type" in config else stated(config))
    size = *_pair(read.image_size), read.num_channels
    return (jax.random.normal(key, (2, *size)),)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads, as far as the config tells."""
    return heads(Config, config)


def heads(kind: type[VisionConfig], config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads, as far as a config tells.

    Args:
      kind: of the config.
      config: as for `build`.
    """
    try:
        read = kind.read(config if "model_type" in config else stated(config))
    ...
