"""The encoder: a small vision transformer in Flax NNX, used as a pure function."""

from functools import cache

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mda_jax.glyphs.images import SIDE


WIDTH, HEADS, BLOCKS, HIDDEN, PATCH = 128, 4, 4, 384, 7
_TOKENS = (SIDE // PATCH) ** 2


class Attention(nnx.Module):
    """Multi-head self-attention with separate query, key and value kernels."""

    def __init__(self, rngs: nnx.Rngs):
        self.query = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.key = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.value = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.out = nnx.Linear(WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: Float[Array, "n t w"]) -> Float[Array, "n t w"]:
        """Mix the tokens."""

        def heads(y):
            return y.reshape(*y.shape[:-1], HEADS, WIDTH // HEADS)

        q, k, v = (heads(f(x)) for f in (self.query, self.key, self.value))
        return self.out(jax.nn.dot_product_attention(q, k, v).reshape(x.shape))


class Block(nnx.Module):
    """Pre-norm transformer block."""

    def __init__(self, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = Attention(rngs)
        self.norm2 = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.up = nnx.Linear(WIDTH, HIDDEN, rngs=rngs)
        self.down = nnx.Linear(HIDDEN, WIDTH, rngs=rngs)

    def __call__(self, x: Float[Array, "n t w"]) -> Float[Array, "n t w"]:
        """Attend, then transform every token."""
        x = x + self.attention(self.norm1(x))
        hidden = jax.nn.gelu(self.up(self.norm2(x)), approximate=False)
        return x + self.down(hidden)


class Encoder(nnx.Module):
    """Images to features: 0.67 million parameters."""

    def __init__(self, rngs: nnx.Rngs):
        window = (PATCH, PATCH)
        self.patch = nnx.Conv(1, WIDTH, window, strides=window, rngs=rngs)
        noise = jax.random.normal(rngs.params(), (_TOKENS, WIDTH))
        self.position_embedding = nnx.Param(0.02 * noise)
        self.blocks = nnx.List([Block(rngs) for _ in range(BLOCKS)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)

    def __call__(self, images: Float[Array, "n 28 28"]) -> Float[Array, "n w"]:
        """The mean token after the last norm."""
        x = self.patch(images[..., None]).reshape(len(images), _TOKENS, WIDTH)
        x = x + self.position_embedding[...][None]
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean(1)


@cache
def _skeleton():
    """The encoder without its numbers."""
    return nnx.split(nnx.eval_shape(lambda: Encoder(nnx.Rngs(0))))[0]


def initial(key) -> dict:
    """Random parameters as a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.state(Encoder(nnx.Rngs(key)), nnx.Param))


def features(params: dict, images: Float[Array, "n 28 28"]) -> Float[Array, "n 128"]:
    """The encoder as a pure function of its parameters."""
    return nnx.merge(_skeleton(), params)(images)


def logits(
    params: dict, head: Float[Array, "classes 128"], images: Float[Array, "n 28 28"]
) -> Float[Array, "n classes"]:
    """Scaled cosines between the features and a head of unit rows.

    Rows of zeros pad a head to more classes than there are: their logits are -inf.
    """
    z = features(params, images)
    z = z / (jnp.linalg.norm(z, axis=-1, keepdims=True) + 1e-6)
    is_class = jnp.any(head != 0, axis=1)[None]
    return jnp.where(is_class, TEMPERATURE * z @ head.T, -jnp.inf)


TEMPERATURE = 30.0
