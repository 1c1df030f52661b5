"""GPT-2, Radford et al., "Language models are unsupervised multitask learners"."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mda_jax.converters.models.config import HubConfig
from mda_jax.converters.models.decoding import (
    Memory,
    MemoryAttention,
    end_tokens,
    greedy,
)
from mda_jax.converters.models.layers import (
    Activation,
    LayerNorm,
    Mlp,
    dense_if_stored,
    embed,
    word_head,
)


class Config(HubConfig):
    """Fields of `config.json`."""

    model_type: Literal["gpt2"] = "gpt2"
    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: Activation = "gelu_new"
    layer_norm_epsilon: float = 1e-5
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    eos_token_id: int | list[int] | None = 50256
    pad_token_id: int | None = None

    @property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end a text."""
        return end_tokens(self.eos_token_id)

    def attention_scale(self, layer: int) -> float:
        """What the scores of a layer are multiplied with."""
        depth = self.n_embd // self.n_head
        scale = depth**-0.5 if self.scale_attn_weights else 1.0
        return scale / (layer + 1 if self.scale_attn_by_inverse_layer_idx else 1)


class Embeddings(nnx.Module):
    """The sum of what a token and its place are."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.word = embed(config.vocab_size, config.n_embd, rngs)
        self.position = embed(config.n_positions, config.n_embd, rngs)

    def __call__(
        self, tokens: Int[Array, "n t"], places: Int[Array, "n t"]
    ) -> Float[Array, "n t width"]:
        """Embed."""
        return self.word(tokens) + self.position(places)


class Layer(nnx.Module):
    """Attention and MLP, each of the normalised input and added to it."""

    def __init__(self, config: Config, number: int, rngs: nnx.Rngs):
        width, eps = config.n_embd, config.layer_norm_epsilon
        self.attention_norm = LayerNorm(width, eps)
        self.attention = MemoryAttention(
            width,
            width,
            config.n_head,
            rngs,
            use_bias=True,
            scale=config.attention_scale(number),
        )
        self.mlp_norm = LayerNorm(width, eps)
        inner = 4 * width if config.n_inner is None else config.n_inner
        self.mlp = Mlp(width, inner, config.activation_function, rngs)

    def __call__(
        self,
        x: Float[Array, "n t width"],
        mask: Bool[Array, "#n 1 t s"],
        past: Memory,
        start: int | Int[Array, ""],
    ) -> tuple[Float[Array, "n t width"], Memory]:
        """Transform the tokens, which take their place in the memory."""
        y = self.attention_norm(x)
        memory = past.filled(self.attention.remember(y), start)
        x = x + self.attention(y, memory, mask)
        return x + self.mlp(self.mlp_norm(x)), memory


class Gpt2(nnx.Module):
    """The decoder, with those heads that the checkpoint has."""

    def __init__(
        self, config: Config, leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
    ):
        dense = partial(dense_if_stored, leaves, width=config.n_embd, rngs=rngs)

        self.embeddings = Embeddings(config, rngs)
        layers = range(config.n_layer)
        self.layers = nnx.List([Layer(config, number, rngs) for number in layers])
        self.norm = LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.lm_head = word_head(
            leaves,
            "lm_head",
            config.n_embd,
            config.vocab_size,
            rngs,
            is_own=config.has_own_head("LMHead"),
        )
        self.score = dense("score", use_bias=False)
        self.classifier, self.span = dense("classifier"), dense("span")
        self.ends, self.padding = config.ends, config.pad_token_id

    def __call__(
        self, tokens: Int[Array, "n t"], mask: Int[Array, "n t"] | None = None
    ) -> Float[Array, "n t words"]:
        """Logits of the next word after each token.

        Args:
          tokens: ids.
          mask: 1 for tokens, 0 for padding; all tokens unless stated.

        Returns:
          Scores of every word; from the embedding of the words if the head is tied.
        """
        return self._logits(self._hidden(tokens, mask))

    def outputs(
        self, tokens: Int[Array, "n t"], mask: Int[Array, "n t"] | None = None
    ) -> dict[str, Float[Array, "n ..."]]:
        """What the decoder and each of the heads say.

        Args:
          tokens: as for a call, which gives `logits`.
          mask: the same.

        Returns:
          `hidden`, `logits`, and of the heads that there are: logits of `score` for
          every text, of `classifier` for every token, of `span` for every token as
          start and end.
        """
        hidden = self._hidden(tokens, mask)
        said = {"hidden": hidden, "logits": self._logits(hidden)}
        if self.score is not None:
            places = jnp.broadcast_to(jnp.arange(tokens.shape[1])[None], tokens.shape)
            # As transformers has it: by the padding token, not by the mask.
            if self.padding is not None:
                places = jnp.where(tokens == self.padding, 0, places)
            last = places.argmax(1)[:, None, None]
            ends = jnp.take_along_axis(hidden, last, axis=1)[:, 0]
            said["score"] = self.score(ends)
        if self.classifier is not None:
            said["classifier"] = self.classifier(hidden)
        if self.span is not None:
            said["span"] = self.span(hidden)
        return said

    def generate(
        self,
        tokens: Int[Array, "n t"],
        steps: int,
        mask: Int[Array, "n t"] | None = None,
    ) -> Int[Array, "n steps"]:
        """The likeliest continuation, word by word.

        Args:
          tokens: beginnings of texts, at least one token each.
          steps: how many tokens to add at most.
          mask: 1 for tokens, 0 for padding, which stands on the left.

        Returns:
          The tokens that follow; after the end of a text padding, or ends.
        """
        mask = jnp.ones_like(tokens) if mask is None else mask
        texts, length = tokens.shape
        places = jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)
        later = jnp.ones((texts, steps), bool)
        visible = jnp.concatenate([mask != 0, later], axis=1)
        past = [layer.attention.blank(texts, length + steps) for layer in self.layers]
        _, past = self._decoded(tokens, places, visible, past, 0)

        def step(
            token: Array, number: Array, state: Sequence[Memory]
        ) -> tuple[Array, Sequence[Memory]]:
            place = places[:, -1:] + number
            hidden, state = self._decoded(
                token[:, None], place, visible, state, length - 1 + number
            )
            return self._logits(hidden[:, 0]), state

        padding = (*self.ends, 0)[0] if self.padding is None else self.padding
        return greedy(step, past, tokens[:, -1], steps, ends=self.ends, padding=padding)

    def _hidden(
        self, tokens: Int[Array, "n t"], mask: Int[Array, "n t"] | None
    ) -> Float[Array, "n t width"]:
        mask = jnp.ones_like(tokens) if mask is None else mask
        texts, length = tokens.shape
        places = jnp.broadcast_to(jnp.arange(length)[None], tokens.shape)
        past = [layer.attention.blank(texts, length) for layer in self.layers]
        return self._decoded(tokens, places, mask != 0, past, 0)[0]

    def _decoded(
        self,
        tokens: Int[Array, "n t"],
        places: Int[Array, "n t"],
        visible: Bool[Array, "n s"],
        past: Sequence[Memory],
        start: int | Int[Array, ""],
    ) -> tuple[Float[Array, "n t width"], list[Memory]]:
        most = self.embeddings.position.num_embeddings
        if visible.shape[1] > most:
            raise ValueError(f"{visible.shape[1]} tokens; the model has {most} places.")
        now = start + jnp.arange(tokens.shape[1])
        earlier = jnp.arange(visible.shape[1])[None] <= now[:, None]
        mask = earlier[None, None] & visible[:, None, None]
        x, memories = self.embeddings(tokens, places), []
        for layer, memory in zip(self.layers, past, strict=True):
            x, memory = layer(x, mask, memory, start)
            memories.append(memory)
        return self.norm(x), memories

    def _logits(self, hidden: Float[Array, "*n width"]) -> Float[Array, "*n words"]:
        if self.lm_head is None:
            return self.embeddings.word.attend(hidden)
        return self.lm_head(hidden)


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> Gpt2:
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
    return Gpt2(Config.read(config), leaves, rngs)


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: tokens of two texts."""
    read = Config.read(config)
    shape = (2, min(read.n_positions, 16))
    return (jax.random.randint(key, shape, 0, read.vocab_size),)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    heads = Config.read(config).n_head
    return {"heads": heads, "kv_heads": heads}
