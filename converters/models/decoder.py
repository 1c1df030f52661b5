"""Decoders that predict the next token: the layers of Llama and those built like it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.models.decoder_config import DecoderConfig
from mda_jax.converters.models.layers import GatedMlp, attend, capped, embed
from mda_jax.converters.models.mixture import Mixture
from mda_jax.converters.models.rope import turned


Turns = tuple[Float[Array, "t half"], Float[Array, "t half"]]


class Past(NamedTuple):
    """Keys and values of one layer, side by side for all heads: [n, s, kv_width]."""

    key: Float[Array, "n s kv_width"]
    value: Float[Array, "n s kv_width"]


class Cache(NamedTuple):
    """What layers have seen of texts so far; room for more.

    Attributes:
      layers: keys and values of each.
      real: 1 for tokens, 0 for padding, [n, s].
      length: number of tokens so far, padding among them.
    """

    layers: tuple[Past, ...]
    real: Int[Array, "n s"]
    length: Int[Array, ""]


class View(NamedTuple):
    """Where the layers of one kind look, and how their heads turn."""

    mask: Bool[Array, "n 1 t s"]
    turns: Turns
    start: Int[Array, ""]


class Attention(nnx.Module):
    """Attention to earlier tokens; a head of keys serves several heads of queries."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        width, depth = config.hidden_size, config.depth
        many, few = config.num_attention_heads * depth, config.kv_heads * depth
        bias, out_bias, _ = config.biases
        self.query = nnx.Linear(width, many, use_bias=bias, rngs=rngs)
        self.key = nnx.Linear(width, few, use_bias=bias, rngs=rngs)
        self.value = nnx.Linear(width, few, use_bias=bias, rngs=rngs)
        self.out = nnx.Linear(many, width, use_bias=out_bias, rngs=rngs)
        if config.norms_of_heads:
            self.query_norm = config.norm(depth, config.rms_norm_eps)
            self.key_norm = config.norm(depth, config.rms_norm_eps)
        self.config = config

    def __call__(
        self, x: Float[Array, "n t width"], view: View, past: Past | None
    ) -> tuple[Float[Array, "n t width"], Past]:
        """Mix the tokens with those before them; also what there is to look at now."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        if self.config.norms_of_heads:
            q, k = self._by_head(q, self.query_norm), self._by_head(k, self.key_norm)
        q, k = (self._by_head(y, lambda h: turned(h, view.turns)) for y in (q, k))
        if past is not None:
            place = (jnp.zeros_like(view.start), view.start, jnp.zeros_like(view.start))
            k = jax.lax.dynamic_update_slice(past.key, k, place)
            v = jax.lax.dynamic_update_slice(past.value, v, place)
        config = self.config
        heads, cap = config.num_attention_heads, config.caps[0]
        seen = attend(q, k, v, heads=heads, mask=view.mask, scale=config.scale, cap=cap)
        return self.out(seen), Past(k, v)

    def _by_head(self, x: Array, function: Callable[[Array], Array]) -> Array:
        heads = x.reshape(*x.shape[:2], -1, self.config.depth)
        return function(heads).reshape(x.shape)


class Layer(nnx.Module):
    """Attention and MLP, each of the normalised input and added to it."""

    def __init__(self, config: DecoderConfig, index: int, rngs: nnx.Rngs):
        width, eps = config.hidden_size, config.rms_norm_eps
        act, routing = config.activation, config.routing(index)
        hidden, bias = config.intermediate_size, config.biases[2]
        self.attention_norm = config.norm(width, eps)
        self.attention = Attention(config, rngs)
        self.mlp_norm = config.norm(width, eps)
        self.mlp = (
            GatedMlp(width, hidden, act, rngs, use_bias=bias)
            if routing is None
            else Mixture(width, act, routing, rngs)
        )
        if config.norms_after:
            self.post_attention_norm = config.norm(width, eps)
            self.post_mlp_norm = config.norm(width, eps)
        self.norms_after = config.norms_after

    def __call__(
        self, x: Float[Array, "n t width"], view: View, past: Past | None
    ) -> tuple[Float[Array, "n t width"], Past]:
        """Transform the tokens; also what attention looks at now."""
        y, past = self.attention(self.attention_norm(x), view, past)
        x = x + (self.post_attention_norm(y) if self.norms_after else y)
        y = self.mlp(self.mlp_norm(x))
        return x + (self.post_mlp_norm(y) if self.norms_after else y), past


class Decoder(nnx.Module):
    """Layers over the embeddings of tokens, with those heads that the checkpoint has.

    Without `lm_head` a language model's last matrix is the embedding.
    """

    def __init__(
        self,
        config: DecoderConfig,
        leaves: Mapping[str, tuple[int, ...]],
        rngs: nnx.Rngs,
    ):
        width = config.hidden_size
        self.embed = embed(config.vocab_size, width, rngs)
        self.layers = nnx.List(
            [Layer(config, i, rngs) for i in range(config.num_hidden_layers)]
        )
        self.norm = config.norm(width, config.rms_norm_eps)
        if "lm_head/kernel" in leaves or config.lacks_head:
            self.lm_head = nnx.Linear(
                width, config.vocab_size, use_bias=False, rngs=rngs
            )
        if "classifier/kernel" in leaves:
            labels = leaves["classifier/kernel"][-1]
            bias = "classifier/bias" in leaves or config.is_for("TokenClassification")
            self.classifier = nnx.Linear(width, labels, use_bias=bias, rngs=rngs)
        self.config = config

    def __call__(
        self, tokens: Int[Array, "n t"], mask: Int[Array, "n t"] | None = None
    ) -> Float[Array, "n ..."]:
        """What the model is for.

        Args:
          tokens: ids.
          mask: 1 for tokens, 0 for padding; all tokens unless stated.

        Returns:
          The classifier's logits; or those of the next token after every token; or the
          last hidden states of a model without a head.
        """
        said = self.outputs(tokens, mask)
        return said.get("classifier", said.get("logits", said["hidden"]))

    def outputs(
        self, tokens: Int[Array, "n t"], mask: Int[Array, "n t"] | None = None
    ) -> dict[str, Float[Array, "n ..."]]:
        """The last hidden states and what each of the heads says.

        Args:
          tokens: as for a call.
          mask: the same.
        """
        mask = jnp.ones_like(tokens) if mask is None else mask
        hidden, _ = self._hidden(tokens, mask, jnp.zeros((), jnp.int32), None)
        said = {"hidden": hidden}
        if "lm_head" in vars(self) or self.config.is_tied:
            said["logits"] = self._logits(hidden)
        if "classifier" in vars(self):
            said["classifier"] = self._classes(tokens, hidden)
        return said

    def cache(self, texts: int, length: int) -> Cache:
        """An empty cache.

        Args:
          texts: how many.
          length: most tokens of each.
        """
        config = self.config
        shape = texts, length, config.kv_heads * config.depth
        empty = jnp.zeros(shape, self.embed.embedding[...].dtype)
        real = jnp.zeros(shape[:2], jnp.int32)
        layers = (Past(empty, empty),) * config.num_hidden_layers
        return Cache(layers, real, jnp.zeros((), jnp.int32))

    def step(
        self,
        tokens: Int[Array, "n t"],
        cache: Cache,
        mask: Int[Array, "n t"] | None = None,
    ) -> tuple[Float[Array, "n t words"], Cache]:
        """Read some more tokens; those read before are in the cache.

        Args:
          tokens: the next of every text; no more than the cache has room for.
          cache: of the tokens before.
          mask: 1 for tokens, 0 for padding; all tokens unless stated.

        Returns:
          The logits that a call with all tokens gives for these, and the new cache. A
          rotary embedding that depends on the length of the text takes that of the
          cache.
        """
        mask = jnp.ones_like(tokens) if mask is None else mask
        start = cache.length
        place = (jnp.zeros_like(start), start)
        real = jax.lax.dynamic_update_slice(cache.real, mask, place)
        hidden, layers = self._hidden(tokens, real, start, cache.layers)
        return self._logits(hidden), Cache(layers, real, start + tokens.shape[1])

    def _hidden(
        self,
        tokens: Int[Array, "n t"],
        real: Int[Array, "n s"],
        start: Int[Array, ""],
        pasts: tuple[Past, ...] | None,
    ) -> tuple[Float[Array, "n t width"], tuple[Past, ...]]:
        config = self.config
        places = start + jnp.arange(tokens.shape[1])
        views = {
            kind: View(
                _mask(places, real, config.windows[kind]),
                config.rotary(kind).turns(places, real.shape[1]),
                start,
            )
            for kind in dict.fromkeys(config.kinds)
        }
        x = self.embed(tokens)
        x = x * jnp.asarray(config.embedding_scale, x.dtype)
        seen = []
        before = pasts or (None,) * len(config.kinds)
        for layer, kind, past in zip(self.layers, config.kinds, before, strict=True):
            x, now = layer(x, views[kind], past)
            seen.append(now)
        return self.norm(x), tuple(seen)

    def _logits(self, hidden: Float[Array, "n t width"]) -> Float[Array, "n t words"]:
        tied = "lm_head" not in vars(self)
        logits = self.embed.attend(hidden) if tied else self.lm_head(hidden)
        return capped(logits, self.config.caps[1])

    def _classes(self, tokens: Array, hidden: Array) -> Array:
        """Of each token if the head has a bias; else of the last that is no padding."""
        if self.classifier.use_bias:
            return self.classifier(hidden)
        padding = self.config.pad_token_id
        places = jnp.arange(tokens.shape[1])[None]
        words = tokens != (-1 if padding is None else padding)
        last = jnp.max(jnp.where(words, places, 0), axis=1)
        return self.classifier(hidden[jnp.arange(len(hidden)), last])


class Models(NamedTuple):
    """The decoders of one family.

    Attributes:
      configs: by the `model_type` of their `config.json`.
    """

    configs: Mapping[str, type[DecoderConfig]]

    def read(self, config: Mapping[str, Any]) -> DecoderConfig:
        """The fields of a `config.json` that matter.

        Args:
          config: its content.

        Returns:
          Those of its model type.

        Raises:
          ConversionError: another model type; a field that is not known, or a value
            that the model does not have.
        """
        kind = config.get("model_type", "")
        if kind not in self.configs:
            raise ConversionError(
                f"config.json: 'model_type' is {kind!r}; expected"
                f" {' or '.join(self.configs)}."
            )
        return self.configs[kind].read(config)

    def build(
        self,
        config: Mapping[str, Any],
        leaves: Mapping[str, tuple[int, ...]],
        rngs: nnx.Rngs,
    ) -> Decoder:
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
        return Decoder(self.read(config), leaves, rngs)

    def example(self, config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
        """Random inputs: tokens of two texts."""
        known = self.read(config)
        length = min(known.max_position_embeddings, 16)
        return (jax.random.randint(key, (2, length), 0, known.vocab_size),)

    def sizes(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Numbers of heads."""
        known = self.read(config)
        return {"heads": known.num_attention_heads, "kv_heads": known.kv_heads}


def _mask(
    places: Int[Array, " t"], real: Int[Array, "n s"], window: int | None
) -> Bool[Array, "n 1 t s"]:
    """Whether a token looks at another: before it, near enough, and no padding."""
    back = places[:, None] - jnp.arange(real.shape[1])[None]
    seen = back >= 0 if window is None else (back >= 0) & (back < window)
    return seen[None, None] & (real != 0)[:, None, None]
