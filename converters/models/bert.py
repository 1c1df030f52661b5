"""BERT and MiniLM encoders, after Devlin et al., arXiv 1810.04805."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mda_jax.converters.models.config import HubConfig
from mda_jax.converters.models.layers import (
    ACTIVATIONS,
    Activation,
    Attention,
    LayerNorm,
    Mlp,
    dense_if_stored,
    embed,
    word_head,
)


class Config(HubConfig):
    """Fields of `config.json`."""

    model_type: Literal["bert"] = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: Activation = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    position_embedding_type: Literal["absolute"] = "absolute"

    @property
    def padding(self) -> int | None:
        """The token from whose id on places are counted, where they are."""
        return None

    @property
    def activation_of_words(self) -> Activation:
        """That of the head of masked words."""
        return self.hidden_act

    @property
    def classifies_tokens(self) -> bool:
        """Whether the classifier was made for tokens, not for texts."""
        return self.is_for("TokenClassification")

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        last = -1 if self.padding is None else self.padding
        return self.max_position_embeddings - last - 1

    @property
    def sizes(self) -> dict[str, int]:
        """Numbers of heads."""
        heads = self.num_attention_heads
        return {"heads": heads, "kv_heads": heads}

    def example(self, key: Array) -> tuple[Array, ...]:
        """Tokens of two random texts."""
        shape = (2, min(self.longest, 16))
        return (jax.random.randint(key, shape, 0, self.vocab_size),)


class Embeddings(nnx.Module):
    """The sum of what a token, its place and its segment are, normalised."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width, segments = config.hidden_size, config.type_vocab_size
        self.word = embed(config.vocab_size, width, rngs)
        self.position = embed(config.max_position_embeddings, width, rngs)
        self.token_type = embed(segments, width, rngs) if segments else None
        self.norm = LayerNorm(width, config.layer_norm_eps)
        self.padding = config.padding

    def __call__(
        self, tokens: Int[Array, "n t"], segments: Int[Array, "n t"]
    ) -> Float[Array, "n t width"]:
        """Embed; RoBERTa counts places from its padding on, skipping padding."""
        if self.padding is None:
            places = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        else:
            real = (tokens != self.padding).astype(jnp.int32)
            places = jnp.cumsum(real, axis=1) * real + self.padding
        x = self.word(tokens) + self.position(places)
        if self.token_type is not None:
            x = x + self.token_type(segments)
        return self.norm(x)


class Layer(nnx.Module):
    """Attention and MLP, each added to its input and normalised after."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width, eps = config.hidden_size, config.layer_norm_eps
        self.attention = Attention(width, config.num_attention_heads, rngs)
        self.attention_norm = LayerNorm(width, eps)
        self.mlp = Mlp(width, config.intermediate_size, config.hidden_act, rngs)
        self.mlp_norm = LayerNorm(width, eps)

    def __call__(self, x: Float[Array, "n t width"], mask: Array) -> Array:
        """Transform the tokens."""
        x = self.attention_norm(x + self.attention(x, mask))
        return self.mlp_norm(x + self.mlp(x))


class MaskedLanguageHead(nnx.Module):
    """Scores of every word; the last matrix is the embedding of the words if tied."""

    def __init__(
        self, config: Config, leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
    ):
        width = config.hidden_size
        self.dense = nnx.Linear(width, width, rngs=rngs)
        self.norm = LayerNorm(width, config.layer_norm_eps)
        biased = "mlm/decoder/bias" in leaves
        self.decoder = word_head(
            leaves,
            "mlm/decoder",
            width,
            config.vocab_size,
            rngs,
            is_own=config.has_own_head("ForMaskedLM", "ForPreTraining"),
            use_bias=biased,
        )
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))
        self.activation = config.activation_of_words

    def __call__(self, x: Float[Array, "*n width"], words: nnx.Embed) -> Array:
        """Logits."""
        x = self.norm(ACTIVATIONS[self.activation](self.dense(x)))
        if self.decoder is not None and self.decoder.use_bias:
            return self.decoder(x)
        scores = words.attend(x) if self.decoder is None else self.decoder(x)
        return scores + jnp.broadcast_to(self.bias[...], scores.shape)


class ClassificationHead(nnx.Module):
    """The classifier of RoBERTa: two dense layers."""

    def __init__(self, width: int, classes: int, rngs: nnx.Rngs):
        self.dense = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: Float[Array, "*n width"]) -> Float[Array, "*n classes"]:
        """Logits."""
        return self.out(jnp.tanh(self.dense(x)))


class Bert(nnx.Module):
    """The encoder, with those heads that the checkpoint has."""

    def __init__(
        self, config: Config, leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
    ):
        dense = partial(dense_if_stored, leaves, width=config.hidden_size, rngs=rngs)
        self.embeddings = Embeddings(config, rngs)
        layers = range(config.num_hidden_layers)
        self.layers = nnx.List([Layer(config, rngs) for _ in layers])
        self.pooler, self.pre_classifier = dense("pooler"), dense("pre_classifier")
        self.next_sentence, self.span = dense("next_sentence"), dense("span")
        out = leaves.get("classifier/out/kernel")
        self.classifier = (
            ClassificationHead(config.hidden_size, out[-1], rngs)
            if out is not None
            else dense("classifier")
        )
        self.mlm = (
            MaskedLanguageHead(config, leaves, rngs) if "mlm/bias" in leaves else None
        )
        summarizes = self.pooler is not None or self.pre_classifier is not None
        self.classifies_tokens = config.classifies_tokens or not summarizes

    def __call__(
        self,
        tokens: Int[Array, "n t"],
        mask: Int[Array, "n t"] | None = None,
        segments: Int[Array, "n t"] | None = None,
    ) -> Float[Array, "n t width"]:
        """Last hidden states.

        Args:
          tokens: ids.
          mask: 1 for tokens, 0 for padding; all tokens unless stated.
          segments: ids of segments; 0 unless stated; DistilBERT has none.

        Returns:
          A vector for every token.
        """
        segments = jnp.zeros_like(tokens) if segments is None else segments
        mask = jnp.ones_like(tokens) if mask is None else mask
        x = self.embeddings(tokens, segments)
        for layer in self.layers:
            x = layer(x, mask[:, None, None, :] != 0)
        return x

    def outputs(
        self,
        tokens: Int[Array, "n t"],
        mask: Int[Array, "n t"] | None = None,
        segments: Int[Array, "n t"] | None = None,
    ) -> dict[str, Float[Array, "n ..."]]:
        """What the encoder and each of the heads say.

        Args:
          tokens: as for a call, which gives `hidden`.
          mask: the same.
          segments: the same.

        Returns:
          `hidden`, and of the heads that there are: `pooled`, a vector for a text;
          logits of `mlm` for every token and word, of `span` for every token as start
          and end, of `next_sentence` for two texts, and of `classifier` for every
          token or every text. A text with choices is one text for each choice.
        """
        hidden = self(tokens, mask, segments)
        said = {"hidden": hidden}
        summary = hidden[:, 0]
        if self.mlm is not None:
            said["mlm"] = self.mlm(hidden, self.embeddings.word)
        if self.span is not None:
            said["span"] = self.span(hidden)
        if isinstance(self.classifier, ClassificationHead):
            said["classifier"] = self.classifier(summary)
        if self.pooler is not None:
            said["pooled"] = summary = jnp.tanh(self.pooler(summary))
        if self.pre_classifier is not None:
            summary = jax.nn.relu(self.pre_classifier(summary))
        if self.next_sentence is not None:
            said["next_sentence"] = self.next_sentence(summary)
        if isinstance(self.classifier, nnx.Linear):
            seen = hidden if self.classifies_tokens else summary
            said["classifier"] = self.classifier(seen)
        return said


def sentence_embedding(
    hidden: Float[Array, "n t width"], mask: Int[Array, "n t"]
) -> Float[Array, "n width"]:
    """The mean over the tokens of a text, of length one: what MiniLM was trained for.

    Args:
      hidden: last hidden states.
      mask: 1 for tokens, 0 for padding.

    Returns:
      Vectors of texts; their dot products are cosine similarities.
    """
    mean = (hidden * mask[..., None].astype(hidden.dtype)).sum(1)
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> Bert:
    """The model of a checkpoint.

    Args:
      config: content of `config.json`.
      leaves: shapes by name; they decide which heads there are.
      rngs: for the first weights.

    Returns:
      The model with weights drawn at random.

    Raises:
      ConversionError: a field of the config is not understood.
    """
    return Bert(Config.read(config), leaves, rngs)


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: tokens of two texts."""
    return Config.read(config).example(key)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    return Config.read(config).sizes
