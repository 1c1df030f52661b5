"""T5, after Raffel et al., arXiv 1910.10683, with the gated MLP of T5 1.1, Flan-T5."""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int
from pydantic import AfterValidator

from mda_jax.converters.models.config import HubConfig
from mda_jax.converters.models.decoding import (
    Memory,
    MemoryAttention,
    end_tokens,
    greedy,
)
from mda_jax.converters.models.layers import (
    ACTIVATIONS,
    Activation,
    Mlp,
    embed,
    word_head,
)
from mda_jax.converters.models.norms import RmsNorm


def _known(projection: str) -> str:
    if projection.removeprefix("gated-") not in ACTIVATIONS:
        raise ValueError(f"expected [gated-]NAME, NAME of {', '.join(ACTIVATIONS)}")
    return projection


class Config(HubConfig):
    """Fields of `config.json`."""

    model_type: Literal["t5"] = "t5"
    is_encoder_decoder: bool = True
    vocab_size: int = 32128
    d_model: int = 512
    d_kv: int = 64
    d_ff: int = 2048
    num_layers: int = 6
    num_decoder_layers: int | None = None
    num_heads: int = 8
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: Annotated[str, AfterValidator(_known)] = "relu"
    dense_act_fn: Activation | None = None
    is_gated_act: bool | None = None
    scale_decoder_outputs: bool | None = None
    eos_token_id: int | list[int] | None = 1
    pad_token_id: int | None = 0
    decoder_start_token_id: int | None = None
    n_positions: int | None = None  # places are relative, any number will do

    @property
    def gated(self) -> bool:
        """Whether the MLP has a gate."""
        stated = self.is_gated_act
        return self.feed_forward_proj.startswith("gated-") if stated is None else stated

    @property
    def activation(self) -> str:
        """Of the MLP; `gated-gelu` means the approximate GELU."""
        if self.dense_act_fn is not None:
            return self.dense_act_fn
        approximate = self.feed_forward_proj == "gated-gelu"
        name = self.feed_forward_proj.removeprefix("gated-")
        return "gelu_new" if approximate else name

    @property
    def scales_outputs(self) -> bool:
        """Whether the head sees hidden states over the root of their width.

        transformers 4 does so where it ties the head; transformers 5 states it.
        """
        stated = self.scale_decoder_outputs
        return self.tie_word_embeddings if stated is None else stated

    @property
    def has_decoder(self) -> bool:
        """Whether the model is more than an encoder."""
        return self.is_encoder_decoder and not self.is_for("EncoderModel")


def buckets(length: int, count: int, farthest: int) -> np.ndarray:
    """Buckets of distances: one for each short distance, then ever wider ones.

    Args:
      length: distances from 0 up to this, exclusively.
      count: how many buckets there are.
      farthest: from this distance on, all are in the last bucket.

    Returns:
      [length] int32.
    """
    exact, distances = count // 2, np.arange(length)
    logs = np.log(np.maximum(distances, exact) / exact) / math.log(farthest / exact)
    # The bound of a bucket is in it, whatever the rounding of its logarithm.
    wide = exact + (logs * (count - exact) + 1e-6).astype(np.int32)
    found = np.where(distances < exact, distances, np.minimum(wide, count - 1))
    return found.astype(np.int32)


class GatedMlp(nnx.Module):
    """Three dense layers without biases: `down` of `gated` times what `gate` says.

    In files the last is called as in an MLP without a gate, hence so in leaves.
    """

    def __init__(self, width: int, hidden: int, activation: str, rngs: nnx.Rngs):
        dense = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.gate, self.gated = dense(width, hidden), dense(width, hidden)
        self.down = dense(hidden, width)
        self.activation = activation

    def __call__(self, x: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
        """Transform every token."""
        return self.down(ACTIVATIONS[self.activation](self.gate(x)) * self.gated(x))


class Layer(nnx.Module):
    """Attention, in the decoder also to the encoder, and MLP, each of normed input."""

    def __init__(self, config: Config, rngs: nnx.Rngs, *, crosses: bool):
        width, inner = config.d_model, config.d_kv * config.num_heads

        def norm() -> RmsNorm:
            return RmsNorm(width, config.layer_norm_epsilon)

        def attention() -> MemoryAttention:
            heads = config.num_heads
            return MemoryAttention(width, inner, heads, rngs, use_bias=False, scale=1.0)

        self.attention_norm, self.attention = norm(), attention()
        if crosses:
            self.cross_attention_norm, self.cross_attention = norm(), attention()
        mlp = GatedMlp if config.gated else partial(Mlp, use_bias=False)
        self.mlp_norm = norm()
        self.mlp = mlp(width, config.d_ff, config.activation, rngs)

    def __call__(
        self,
        x: Float[Array, "n t width"],
        mask: Bool[Array, "#n 1 #t s"],
        bias: Float[Array, "1 h t s"],
        past: Memory,
        start: int | Int[Array, ""],
        source: tuple[Memory, Bool[Array, "n 1 1 r"]] | None,
    ) -> tuple[Float[Array, "n t width"], Memory]:
        """Transform the tokens, which take their place in the memory."""
        y = self.attention_norm(x)
        memory = past.filled(self.attention.remember(y), start)
        x = x + self.attention(y, memory, mask, bias)
        if source is not None:
            x = x + self.cross_attention(self.cross_attention_norm(x), *source)
        return x + self.mlp(self.mlp_norm(x)), memory


class Stack(nnx.Module):
    """The encoder or the decoder; all layers share one bias by relative places."""

    def __init__(self, config: Config, layers: int, rngs: nnx.Rngs, *, causal: bool):
        count = config.relative_attention_num_buckets
        self.relative_bias = embed(count, config.num_heads, rngs)
        self.layers = nnx.List(
            [Layer(config, rngs, crosses=causal) for _ in range(layers)]
        )
        self.norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        self.causal, self.count = causal, count
        self.farthest = config.relative_attention_max_distance

    def blank(self, texts: int, length: int) -> list[Memory]:
        """Memories to be filled."""
        return [layer.attention.blank(texts, length) for layer in self.layers]

    def remember(self, encoded: Float[Array, "n r width"]) -> list[Memory]:
        """What the layers keep of the encoder's hidden states."""
        return [layer.cross_attention.remember(encoded) for layer in self.layers]

    def __call__(
        self,
        x: Float[Array, "n t width"],
        mask: Bool[Array, "n s"],
        past: Sequence[Memory],
        start: int | Int[Array, ""] = 0,
        source: tuple[Sequence[Memory], Bool[Array, "n r"]] | None = None,
    ) -> tuple[Float[Array, "n t width"], list[Memory]]:
        """Transform the tokens from a place on.

        Args:
          x: embedded tokens.
          mask: the places that are tokens.
          past: memories as long as all places.
          start: the place of the first of these tokens.
          source: what is remembered of the encoder, and its tokens.

        Returns:
          Hidden states and the filled memories.
        """
        places = jnp.arange(mask.shape[1])[None]
        now = start + jnp.arange(x.shape[1])[:, None]
        visible = mask[:, None, None]
        if self.causal:
            visible = visible & (places <= now)[None, None]
        bias, memories = self._bias(places - now), []
        for number, layer in enumerate(self.layers):
            seen = source and (source[0][number], source[1][:, None, None])
            x, memory = layer(x, visible, bias, past[number], start, seen)
            memories.append(memory)
        return self.norm(x), memories

    def _bias(self, ahead: Int[Array, "t s"]) -> Float[Array, "1 h t s"]:
        length = ahead.shape[1]
        if self.causal:
            distances, side = jnp.maximum(-ahead, 0), jnp.zeros_like(ahead)
            table = buckets(length, self.count, self.farthest)
        else:
            half = self.count // 2
            distances, side = jnp.abs(ahead), jnp.where(ahead > 0, half, 0)
            table = buckets(length, half, self.farthest)
        bias = self.relative_bias(jnp.asarray(table)[distances] + side)
        return bias.transpose(2, 0, 1)[None]


class Encoder(nnx.Module):
    """T5 without a decoder."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.shared = embed(config.vocab_size, config.d_model, rngs)
        self.encoder = Stack(config, config.num_layers, rngs, causal=False)

    def __call__(
        self, tokens: Int[Array, "n r"], mask: Int[Array, "n r"] | None = None
    ) -> Float[Array, "n r width"]:
        """Last hidden states.

        Args:
          tokens: ids.
          mask: 1 for tokens, 0 for padding; all tokens unless stated.

        Returns:
          A vector for every token.
        """
        return encoded(self, tokens, _where(tokens, mask))

    def outputs(
        self, tokens: Int[Array, "n r"], mask: Int[Array, "n r"] | None = None
    ) -> dict[str, Float[Array, "n r width"]]:
        """What the encoder says: `encoded`, as a call."""
        return {"encoded": self(tokens, mask)}


class T5(nnx.Module):
    """Encoder and decoder."""

    def __init__(
        self, config: Config, leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
    ):
        width, layers = config.d_model, config.num_decoder_layers
        self.shared = embed(config.vocab_size, width, rngs)
        self.encoder = Stack(config, config.num_layers, rngs, causal=False)
        number = config.num_layers if layers is None else layers
        self.decoder = Stack(config, number, rngs, causal=True)
        self.lm_head = word_head(
            leaves,
            "lm_head",
            width,
            config.vocab_size,
            rngs,
            is_own=config.has_own_head("ForConditionalGeneration"),
        )
        self.scale = width**-0.5 if config.scales_outputs else 1.0
        self.ends = end_tokens(config.eos_token_id)
        self.padding = config.pad_token_id or 0
        start = config.decoder_start_token_id
        self.start = self.padding if start is None else start

    def __call__(
        self,
        tokens: Int[Array, "n r"],
        targets: Int[Array, "n t"],
        mask: Int[Array, "n r"] | None = None,
    ) -> Float[Array, "n t words"]:
        """Logits of the next word after each token of the decoder.

        Args:
          tokens: ids of the encoder's text.
          targets: ids of the decoder's text, which starts with the start token.
          mask: 1 for tokens, 0 for padding of the encoder's text; all tokens unless
            stated.

        Returns:
          Scores of every word; from the embedding of the words if the head is tied.
        """
        return self.outputs(tokens, targets, mask)["logits"]

    def outputs(
        self,
        tokens: Int[Array, "n r"],
        targets: Int[Array, "n t"],
        mask: Int[Array, "n r"] | None = None,
    ) -> dict[str, Float[Array, "n ..."]]:
        """What encoder, decoder and head say: `encoded`, `hidden` and `logits`.

        Args:
          tokens: as for a call, which gives `logits`.
          targets: the same.
          mask: the same.
        """
        real = _where(tokens, mask)
        told = encoded(self, tokens, real)
        past = self.decoder.blank(*targets.shape)
        source = self.decoder.remember(told), real
        every = jnp.ones(targets.shape, bool)
        hidden, _ = self.decoder(self.shared(targets), every, past, 0, source)
        return {"encoded": told, "hidden": hidden, "logits": self._logits(hidden)}

    def generate(
        self,
        tokens: Int[Array, "n r"],
        steps: int,
        mask: Int[Array, "n r"] | None = None,
    ) -> Int[Array, "n steps"]:
        """The likeliest text of the decoder, word by word.

        Args:
          tokens: ids of the encoder's text.
          steps: how many tokens at most.
          mask: as for a call.

        Returns:
          The tokens after the start token; after the end of a text padding.
        """
        real = _where(tokens, mask)
        source = self.decoder.remember(encoded(self, tokens, real)), real
        every = jnp.ones((len(tokens), steps), bool)

        def step(
            token: Array, number: Array, past: Sequence[Memory]
        ) -> tuple[Array, Sequence[Memory]]:
            x = self.shared(token[:, None])
            hidden, past = self.decoder(x, every, past, number, source)
            return self._logits(hidden[:, 0]), past

        first = jnp.full(len(tokens), self.start, tokens.dtype)
        past = self.decoder.blank(len(tokens), steps)
        return greedy(step, past, first, steps, ends=self.ends, padding=self.padding)

    def _logits(self, hidden: Float[Array, "*n width"]) -> Float[Array, "*n words"]:
        scaled = hidden * self.scale
        if self.lm_head is None:
            return self.shared.attend(scaled)
        return self.lm_head(scaled)


def encoded(
    model: Encoder | T5, tokens: Int[Array, "n r"], real: Bool[Array, "n r"]
) -> Float[Array, "n r width"]:
    """Last hidden states of the encoder."""
    past = model.encoder.blank(*tokens.shape)
    return model.encoder(model.shared(tokens), real, past)[0]


def _where(
    tokens: Int[Array, "n r"], mask: Int[Array, "n r"] | None
) -> Bool[Array, "n r"]:
    return jnp.ones(tokens.shape, bool) if mask is None else mask != 0


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> Encoder | T5:
    """The model of a checkpoint.

    Args:
      config: content of `config.json`.
      leaves: shapes by name; they decide whether there is a decoder and a head.
      rngs: for the first weights.

    Returns:
      The model with weights drawn at random.

    Raises:
      ConversionError: a field of the config is not understood.
    """
    read = Config.read(config)
    if "decoder/norm/scale" in leaves:
        return T5(read, leaves, rngs)
    return Encoder(read, rngs)


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: tokens of two texts, and if there is a decoder, two for it."""
    read = Config.read(config)
    lengths = (16, 8) if read.has_decoder else (16,)
    keys = jax.random.split(key, len(lengths))
    return tuple(
        jax.random.randint(k, (2, length), 0, read.vocab_size)
        for k, length in zip(keys, lengths, strict=True)
    )


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    heads = Config.read(config).num_heads
    return {"heads": heads, "kv_heads": heads}
