"""What models of images and texts share: layers, towers, and how the two compare."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.models.config import HubConfig
from mda_jax.converters.models.layers import (
    Activation,
    Attention,
    LayerNorm,
    Mlp,
    embed,
)


class TowerConfig(HubConfig):
    """Fields that describe the layers of a tower."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int = 12
    num_attention_heads: int
    hidden_act: Activation
    layer_norm_eps: float


class TextTowerConfig(TowerConfig):
    """Fields that describe a tower of texts."""

    vocab_size: int
    max_position_embeddings: int


class ImageTowerConfig(TowerConfig):
    """Fields that describe a tower of square images."""

    num_channels: int = 3
    image_size: int = 224
    patch_size: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.image_size, self.image_size, self.num_channels

    @property
    def patches(self) -> int:
        """How many patches an image has."""
        return (self.image_size // self.patch_size) ** 2


class Layer(nnx.Module):
    """Attention and MLP on normalised tokens, each added to its input."""

    def __init__(self, config: TowerConfig, rngs: nnx.Rngs):
        width, eps = config.hidden_size, config.layer_norm_eps
        self.attention_norm = LayerNorm(width, eps)
        self.attention = Attention(width, config.num_attention_heads, rngs)
        self.mlp_norm = LayerNorm(width, eps)
        self.mlp = Mlp(width, config.intermediate_size, config.hidden_act, rngs)

    def __call__(
        self, x: Float[Array, "n t width"], mask: Bool[Array, "#n 1 #t t"] | None = None
    ) -> Float[Array, "n t width"]:
        """Transform the tokens."""
        x = x + self.attention(self.attention_norm(x), mask)
        return x + self.mlp(self.mlp_norm(x))


def layers(config: TowerConfig, rngs: nnx.Rngs) -> list[Layer]:
    """The layers of a tower."""
    return [Layer(config, rngs) for _ in range(config.num_hidden_layers)]


def check_shape(
    images: Float[Array, "n h w c"], image_shape: tuple[int, int, int]
) -> None:
    """Check the size of images.

    Raises:
      ValueError: it is not that of the model.
    """
    if images.shape[1:] != image_shape:
        raise ValueError(
            f"images have the shape {images.shape[1:]}; the model takes height, width"
            f" and channels {image_shape}. Resize them."
        )


class Patches(nnx.Conv):
    """The patches of an image as tokens, from the top left in rows."""

    def __init__(self, config: ImageTowerConfig, rngs: nnx.Rngs, *, use_bias: bool):
        patch = (config.patch_size, config.patch_size)
        super().__init__(
            config.num_channels,
            config.hidden_size,
            patch,
            strides=patch,
            padding="VALID",
            use_bias=use_bias,
            rngs=rngs,
        )
        self.image_shape = config.image_shape

    def __call__(
        self, inputs: Float[Array, "n h w c"], out_sharding: Any = None
    ) -> Float[Array, "n t width"]:
        """Embed.

        Raises:
          ValueError: the images are not of the size of the model.
        """
        check_shape(inputs, self.image_shape)
        x = super().__call__(inputs.astype(self.kernel[...].dtype), out_sharding)
        return x.reshape(len(x), -1, x.shape[-1])


class Text(nnx.Module):
    """A tower of texts: tokens and places, layers, a norm, and maybe a projection.

    What a token sees and which one stands for the text differ between families.
    """

    def __init__(
        self,
        config: TextTowerConfig,
        projection: nnx.Linear | None,
        rngs: nnx.Rngs,
    ):
        width, length = config.hidden_size, config.max_position_embeddings
        self.token_embedding = embed(config.vocab_size, width, rngs)
        self.position_embedding = embed(length, width, rngs)
        self.layers = nnx.List(layers(config, rngs))
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        if projection is not None:
            self.projection = projection

    def sight(self, mask: Int[Array, "n t"]) -> Bool[Array, "n 1 #t t"]:
        """Where each token looks: at all but padding."""
        return mask[:, None, None, :] != 0

    def last(self, tokens: Int[Array, "n t"]) -> Int[Array, " n"]:
        """The place of the token that stands for the text: the last of all."""
        return jnp.full(len(tokens), tokens.shape[1] - 1)

    def __call__(
        self, tokens: Int[Array, "n t"], mask: Int[Array, "n t"] | None = None
    ) -> Float[Array, "n t width"]:
        """Last hidden states.

        Args:
          tokens: ids.
          mask: 1 for tokens, 0 for padding; all tokens unless stated.

        Returns:
          A vector for every token, normalised.

        Raises:
          ValueError: a text is longer than the model allows.
        """
        longest = self.position_embedding.num_embeddings
        if tokens.shape[1] > longest:
            raise ValueError(
                f"texts of {tokens.shape[1]} tokens; the model takes {longest} at most."
                " Cut them."
            )
        places = self.position_embedding.embedding[: tokens.shape[1]]
        x = self.token_embedding(tokens) + places[None]
        sight = self.sight(jnp.ones_like(tokens) if mask is None else mask)
        for layer in self.layers:
            x = layer(x, sight)
        return self.norm(x)

    def outputs(
        self, tokens: Int[Array, "n t"], mask: Int[Array, "n t"] | None = None
    ) -> dict[str, Float[Array, "n ..."]]:
        """Hidden states, the vector of each text, and its features if projected.

        Args:
          tokens: as for a call, which gives `hidden`.
          mask: the same.
        """
        hidden = self(tokens, mask)
        pooled = hidden[jnp.arange(len(tokens)), self.last(tokens)]
        said = {"hidden": hidden, "pooled": pooled}
        if "projection" in vars(self):
            said["features"] = self.projection(pooled)
        return said


class PatchTower(nnx.Module):
    """A tower of images: patches and places, and layers; all of them patches here."""

    def __init__(
        self,
        config: ImageTowerConfig,
        rngs: nnx.Rngs,
        *,
        own_tokens: int,
        patch_bias: bool,
    ):
        """Make the layers.

        Args:
          config: of the tower.
          rngs: for the first weights.
          own_tokens: how many tokens with places there are besides the patches.
          patch_bias: whether the embedding of patches has a bias.
        """
        width, places = config.hidden_size, config.patches + own_tokens
        self.patch = Patches(config, rngs, use_bias=patch_bias)
        self.position_embedding = embed(places, width, rngs)
        self.layers = nnx.List(layers(config, rngs))
        self.norm = LayerNorm(width, config.layer_norm_eps)

    def tokens(self, images: Float[Array, "n h w c"]) -> Float[Array, "n t width"]:
        """What the first layer sees."""
        return self.patch(images) + self.position_embedding.embedding[...][None]

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n t width"]:
        """Last hidden states."""
        x = self.tokens(images)
        for layer in self.layers:
            x = layer(x)
        return x

    def outputs(
        self, images: Float[Array, "n h w c"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """Last hidden states; more where a tower says what stands for an image."""
        return {"hidden": self(images)}

    def patches(self, hidden: Float[Array, "n t width"]) -> Float[Array, "n s width"]:
        """The tokens of patches among the hidden states."""
        return hidden


@runtime_checkable
class Images(Protocol):
    """A tower of images."""

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n ..."]:
        """Last hidden states."""

    def outputs(
        self, images: Float[Array, "n h w c"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """Hidden states, and the features of each image if there are some."""


class TextModel(nnx.Module):
    """A tower of texts alone."""

    def __init__(self, text: Text):
        self.text = text

    def __call__(
        self, tokens: Int[Array, "n t"], mask: Int[Array, "n t"] | None = None
    ) -> Float[Array, "n t width"]:
        """Last hidden states.

        Args:
          tokens: ids.
          mask: 1 for tokens, 0 for padding; all tokens unless stated.

        Returns:
          A vector for every token.
        """
        return self.text(tokens, mask)

    def outputs(
        self, tokens: Int[Array, "n t"], mask: Int[Array, "n t"] | None = None
    ) -> dict[str, Float[Array, "n ..."]]:
        """What the tower says.

        Args:
          tokens: as for a call, which gives `hidden`.
          mask: the same.
        """
        return self.text.outputs(tokens, mask)


class ImageModel(nnx.Module):
    """A tower of images alone."""

    def __init__(self, vision: Images):
        self.vision = vision

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n ..."]:
        """Last hidden states."""
        return self.vision(images)

    def outputs(
        self, images: Float[Array, "n h w c"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """What the tower says."""
        return self.vision.outputs(images)


class ImageClassifier(nnx.Module):
    """A tower of images, and a dense layer on the mean of its patches."""

    def __init__(self, vision: PatchTower, classifier: nnx.Linear):
        self.vision = vision
        self.classifier = classifier

    def __call__(self, images: Float[Array, "n h w c"]) -> Float[Array, "n classes"]:
        """Logits."""
        return self.classifier(self.vision.patches(self.vision(images)).mean(1))

    def outputs(
        self, images: Float[Array, "n h w c"]
    ) -> dict[str, Float[Array, "n ..."]]:
        """What the classifier says: `logits`."""
        return {"logits": self(images)}


def _unit(x: Float[Array, "n width"]) -> Float[Array, "n width"]:
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


class TwoTowers(nnx.Module):
    """Images and texts in one space, compared by their angles.

    Attributes:
      vision: the tower of images.
      text: that of texts.
      logit_scale: the logarithm of what cosines are multiplied with.
      logit_bias: added after that, where a model has it.
    """

    def __init__(
        self,
        vision: Images,
        text: Text,
        logit_scale: Float[Array, "*one"],
        logit_bias: Float[Array, "*one"] | None = None,
    ):
        self.vision, self.text = vision, text
        self.logit_scale = nnx.Param(logit_scale)
        if logit_bias is not None:
            self.logit_bias = nnx.Param(logit_bias)

    def __call__(
        self,
        images: Float[Array, "n h w c"],
        tokens: Int[Array, "m t"],
        mask: Int[Array, "m t"] | None = None,
    ) -> Float[Array, "n m"]:
        """How well each image fits each text.

        Args:
          images: of the size of the model.
          tokens: ids.
          mask: 1 for tokens, 0 for padding; all tokens unless stated.

        Returns:
          Logits, images in rows.
        """
        return self.outputs(images, tokens, mask)["logits_per_image"]

    def outputs(
        self,
        images: Float[Array, "n h w c"],
        tokens: Int[Array, "m t"],
        mask: Int[Array, "m t"] | None = None,
    ) -> dict[str, Float[Array, "_ _"]]:
        """Features of length one, and logits both ways.

        Args:
          images: as for a call, which gives `logits_per_image`.
          tokens: the same.
          mask: the same.
        """
        seen = _unit(self.vision.outputs(images)["features"])
        read = _unit(self.text.outputs(tokens, mask)["features"])
        scale = jnp.exp(self.logit_scale[...].astype(jnp.float32).reshape(()))
        logits = (seen @ read.T) * scale
        if "logit_bias" in vars(self):
            logits = logits + self.logit_bias[...].astype(jnp.float32).reshape(())
        return {
            "image_features": seen,
            "text_features": read,
            "logits_per_image": logits,
            "logits_per_text": logits.T,
        }


Model = ImageModel | ImageClassifier | TextModel | TwoTowers


def _one(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a number, which may be stored as a vector of one."""
    return (1,) if shape else ()


def assembled(
    vision: Images | None,
    text: Text | None,
    leaves: Mapping[str, tuple[int, ...]],
    rngs: nnx.Rngs,
) -> Model:
    """The model that has those of the towers that a checkpoint has.

    Args:
      vision: the tower of images, if the config has one.
      text: that of texts, if the config has one.
      leaves: shapes by name.
      rngs: for the first weights.

    Raises:
      ConversionError: the checkpoint has none of the towers.
    """
    held = {name.split("/")[0] for name in leaves}
    if isinstance(vision, PatchTower) and "classifier/kernel" in leaves:
        width, classes = leaves["classifier/kernel"]
        return ImageClassifier(vision, nnx.Linear(width, classes, rngs=rngs))
    if vision and text and {"vision", "text"} <= held:
        scale, bias = leaves.get("logit_scale", ()), leaves.get("logit_bias")
        return TwoTowers(
            vision,
            text,
            jnp.zeros(_one(scale)),
            None if bias is None else jnp.zeros(_one(bias)),
        )
    if vision and "vision" in held:
        return ImageModel(vision)
    if text and "text" in held:
        return TextModel(text)
    raise ConversionError(
        "the config describes no tower that the checkpoint has; it has"
        f" {', '.join(sorted(held))}."
    )


def random_inputs(
    image_shape: tuple[int, int, int] | None,
    text: TextTowerConfig | None,
    config: Mapping[str, Any],
    key: Array,
) -> tuple[Array, ...]:
    """Two images, three texts, or both, as a model takes them.

    Args:
      image_shape: height, width and channels, if the model takes images.
      text: config of the tower of texts, if the model has it.
      config: content of `config.json`; a classifier of images takes no texts.
      key: of the random numbers.
    """
    first, second = jax.random.split(key)
    inputs: list[Array] = []
    if image_shape:
        inputs.append(jax.random.normal(first, (2, *image_shape)))
    if text and "ImageClassification" not in "".join(config.get("architectures") or ()):
        length = min(text.max_position_embeddings, 16)
        inputs.append(jax.random.randint(second, (3, length), 0, text.vocab_size))
    return tuple(inputs)


def head_counts(vision: int | None, text: int | None) -> dict[str, int]:
    """The numbers of heads that transforms name, of the towers that a model has."""
    return {
        f"{tower}_{heads}": count
        for tower, count in (("vision", vision), ("text", text))
        if count
        for heads in ("heads", "kv_heads")
    }
