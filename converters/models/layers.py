"""What the reference models share."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float
from pydantic import AfterValidator

from mda_jax.converters.errors import ConversionError


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_python": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_fast": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
    "tanh": jnp.tanh,
}


def _known(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"known activations are {', '.join(ACTIVATIONS)}")
    return name


Activation = Annotated[str, AfterValidator(_known)]  # the name of one, in a config


def attend(
    query: Float[Array, "n t width"],
    key: Float[Array, "n s kv_width"],
    value: Float[Array, "n s kv_width"],
    *,
    heads: int,
    mask: Bool[Array, "#n #h #t s"] | None = None,
    bias: Float[Array, "#n #h t s"] | None = None,
    scale: float | None = None,
    cap: float | None = None,
) -> Float[Array, "n t width"]:
    """Dot-product attention in float32; a head of keys may serve several queries.

    Args:
      query: of all heads, side by side.
      key: as wide as its heads ask, a divisor of the queries'.
      value: the same.
      heads: number of heads of the queries.
      mask: where to look.
      bias: added to the scores.
      scale: of the scores; one over the root of a head's width unless stated.
      cap: soft bound of the scores, before bias and mask; none unless stated.

    Returns:
      What the heads saw, side by side.
    """
    depth = query.shape[-1] // heads

    def split(x: Array) -> Array:
        return x.reshape(*x.shape[:2], -1, depth).astype(jnp.float32)

    q, k, v = split(query), split(key), split(value)
    few = k.shape[2]
    q = q.reshape(*q.shape[:2], few, heads // few, depth)
    scores = jnp.einsum("ntgrd,nsgd->ngrts", q, k).reshape(
        len(q), heads, q.shape[1], k.shape[1]
    )
    scores = scores * (depth**-0.5 if scale is None else scale)
    scores = capped(scores, cap)
    if bias is not None:
        scores = scores + bias.astype(scores.dtype)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    weights = jax.nn.softmax(scores).reshape(len(q), few, -1, *scores.shape[2:])
    seen = jnp.einsum("ngrts,nsgd->ntgrd", weights, v)
    return seen.reshape(query.shape).astype(query.dtype)


def capped(x: Float[Array, "*d"], cap: float | None) -> Float[Array, "*d"]:
    """Bent softly to within plus and minus a bound."""
    return x if cap is None else cap * jnp.tanh(x / cap)


class Attention(nnx.Module):
    """Multi-head attention with separate 2-D kernels for query, key, value and out."""

    def __init__(
        self,
        width: int,
        heads: int,
        rngs: nnx.Rngs,
        *,
        use_bias: bool = True,
        out_bias: bool | None = None,
    ):
        """Make the layers; `out` has a bias where the others do, unless stated."""
        check_heads(width, heads)

        def dense(use_bias: bool) -> nnx.Linear:
            return nnx.Linear(width, width, use_bias=use_bias, rngs=rngs)

        self.query, self.key, self.value = (dense(use_bias) for _ in range(3))
        self.out = dense(use_bias if out_bias is None else out_bias)
        self.heads = heads

    def __call__(
        self,
        x: Float[Array, "n t width"],
        mask: Bool[Array, "#n #h #t t"] | None = None,
    ) -> Float[Array, "n t width"]:
        """Mix the tokens."""
        q, k, v = self.query(x), self.key(x), self.value(x)
        return self.out(attend(q, k, v, heads=self.heads, mask=mask))


class Mlp(nnx.Module):
    """Two dense layers with an activation between them: `up`, `down`."""

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: str,
        rngs: nnx.Rngs,
        *,
        use_bias: bool = True,
    ):
        self.up = nnx.Linear(width, hidden, use_bias=use_bias, rngs=rngs)
        self.down = nnx.Linear(hidden, width, use_bias=use_bias, rngs=rngs)
        self.activation = activation

    def __call__(self, x: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
        """Transform every token."""
        return self.down(ACTIVATIONS[self.activation](self.up(x)))


class LayerNorm(nnx.Module):
    """Layer normalisation, in float32."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.eps = eps

    def __call__(self, x: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
        """Normalise, scale, shift."""
        y = x.astype(jnp.float32)
        y = y - y.mean(-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + self.eps)
        scale, bias = (
            jnp.broadcast_to(p[...].astype(y.dtype), y.shape)
            for p in (self.scale, self.bias)
        )
        return (y * scale + bias).astype(x.dtype)


def dense_if_stored(
    leaves: Mapping[str, tuple[int, ...]],
    name: str,
    width: int,
    rngs: nnx.Rngs,
    *,
    use_bias: bool = True,
) -> nnx.Linear | None:
    """A dense layer as wide as in the checkpoint, or None where it has none.

    Args:
      leaves: shapes by name.
      name: of the layer.
      width: of its input.
      rngs: for the first weights.
      use_bias: whether it has a bias, which must be there then.
    """
    shape = leaves.get(f"{name}/kernel")
    if shape is None:
        return None
    return nnx.Linear(width, shape[-1], use_bias=use_bias, rngs=rngs)


def word_head(
    leaves: Mapping[str, tuple[int, ...]],
    name: str,
    width: int,
    words: int,
    rngs: nnx.Rngs,
    *,
    is_own: bool,
    use_bias: bool = False,
) -> nnx.Linear | None:
    """The last matrix of a language model, or None where it is the embedding.

    Args:
      leaves: shapes by name; a matrix that is there is used.
      name: of the matrix.
      width: of its input.
      words: how many are known.
      rngs: for the first weights.
      is_own: whether a checkpoint without it is not whole.
      use_bias: whether it has a bias, which must be there then.
    """
    if f"{name}/kernel" in leaves or is_own:
        return nnx.Linear(width, words, use_bias=use_bias, rngs=rngs)
    return None


def check_heads(width: int, heads: int) -> None:
    """Check that heads share a width evenly.

    Raises:
      ConversionError: they do not.
    """
    if width % heads:
        raise ConversionError(
            f"config.json: a width of {width} cannot be shared by {heads} heads;"
            " expected a number of heads that divides it."
        )


def embed(entries: int, width: int, rngs: nnx.Rngs) -> nnx.Embed:
    """A table of vectors, which come out in the type that the table has then."""
    table = nnx.Embed(entries, width, rngs=rngs)
    table.dtype = None  # else Flax keeps the type of the first weights
    return table


class GatedMlp(nnx.Module):
    """An MLP one of whose two inner layers gates the other: `gate`, `up`, `down`."""

    def __init__(
        self,
        width: int,
        hidden: int,
        activation: str,
        rngs: nnx.Rngs,
        *,
        use_bias: bool = True,
    ):
        dense = partial(nnx.Linear, use_bias=use_bias, rngs=rngs)
        self.gate, self.up = dense(width, hidden), dense(width, hidden)
        self.down = dense(hidden, width)
        self.activation = activation

    def __call__(self, x: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
        """Transform every token."""
        return self.down(ACTIVATIONS[self.activation](self.gate(x)) * self.up(x))
