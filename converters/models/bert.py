"""BERT, RoBERTa and MiniLM encoders, after Devlin et al., arXiv 1810.04805."""

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mda_jax.converters.models.config import HubConfig
from mda_jax.converters.models.layers import ACTIVATIONS, Attention, Mlp


class Config(HubConfig):
    """Fields of `config.json`."""

    model_type: Literal["bert", "roberta", "xlm-roberta"] = "bert"
    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int | None = 0
    position_embedding_type: Literal["absolute"] = "absolute"
    is_decoder: Literal[False] = False
    add_cross_attention: Literal[False] = False


class Embeddings(nnx.Module):
    """The sum of what a token, its place and its segment are, normalised."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width = config.hidden_size
        self.word = nnx.Embed(config.vocab_size, width, rngs=rngs)
        self.position = nnx.Embed(config.max_position_embeddings, width, rngs=rngs)
        self.token_type = nnx.Embed(config.type_vocab_size, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=config.layer_norm_eps, rngs=rngs)
        self.padding = None if config.model_type == "bert" else config.pad_token_id

    def __call__(
        self, tokens: Int[Array, "n t"], segments: Int[Array, "n t"]
    ) -> Float[Array, "n t width"]:
        """Embed; RoBERTa counts places from its padding on, skipping padding."""
        if self.padding is None:
            places = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
        else:
            real = (tokens != self.padding).astype(jnp.int32)
            places = jnp.cumsum(real, axis=1) * real + self.padding
        x = self.word(tokens) + self.token_type(segments) + self.position(places)
        return self.norm(x)


class Layer(nnx.Module):
    """Attention and MLP, each added to its input and normalised after."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width, eps = config.hidden_size, config.layer_norm_eps
        self.attention = Attention(width, config.num_attention_heads, rngs)
        self.attention_norm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)
        self.mlp = Mlp(width, config.intermediate_size, config.hidden_act, rngs)
        self.mlp_norm = nnx.LayerNorm(width, epsilon=eps, rngs=rngs)

    def __call__(self, x: Float[Array, "n t width"], mask: Array) -> Array:
        """Transform the tokens."""
        x = self.attention_norm(x + self.attention(x, mask))
        return self.mlp_norm(x + self.mlp(x))


class MaskedLanguageHead(nnx.Module):
    """Scores of every word; the last matrix is the embedding of the words."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width = config.hidden_size
        self.dense = nnx.Linear(width, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=config.layer_norm_eps, rngs=rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))
        self.activation = config.hidden_act

    def __call__(self, x: Float[Array, "*n width"], words: nnx.Embed) -> Array:
        """Logits."""
        x = self.norm(ACTIVATIONS[self.activation](self.dense(x)))
        return words.attend(x) + self.bias[...]


class Bert(nnx.Module):
    """The encoder, with those heads that the checkpoint has."""

    def __init__(
        self, config: Config, leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
    ):
        width = config.hidden_size
        self.embeddings = Embeddings(config, rngs)
        layers = range(config.num_hidden_layers)
        self.layers = nnx.List([Layer(config, rngs) for _ in layers])
        if "pooler/kernel" in leaves:
            self.pooler = nnx.Linear(width, width, rngs=rngs)
        if "mlm/bias" in leaves:
            self.mlm = MaskedLanguageHead(config, rngs)
        for head in ("classifier", "next_sentence", "span"):
            if (name := f"{head}/kernel") in leaves:
                setattr(self, head, nnx.Linear(width, leaves[name][-1], rngs=rngs))

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
          segments: ids of segments; 0 unless stated.

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
        """
        hidden = self(tokens, mask, segments)
        said = {"hidden": hidden}
        if "pooler" in vars(self):
            said["pooled"] = jnp.tanh(self.pooler(hidden[:, 0]))
        if "mlm" in vars(self):
            said["mlm"] = self.mlm(hidden, self.embeddings.word)
        return said


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
    read = Config.read(config)
    length = min(read.max_position_embeddings - 2, 16)
    return (jax.random.randint(key, (2, length), 0, read.vocab_size),)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    heads = Config.read(config).num_attention_heads
    return {"heads": heads, "kv_heads": heads}
