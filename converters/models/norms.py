"""Root-mean-square normalisation, after Zhang and Sennrich, arXiv 1910.07467."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class RmsNorm(nnx.Module):
    """Root-mean-square normalisation, in float32."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.eps = eps

    def __call__(self, x: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
        """Normalise, then scale."""
        return self.normalised(x).astype(x.dtype) * _row(self.scale[...], x)

    def normalised(self, x: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
        """Without the scale."""
        x = x.astype(jnp.float32)
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps)


class OffsetNorm(RmsNorm):
    """The same with a scale that is stored less one, as Gemma has it."""

    def __init__(self, width: int, eps: float):
        super().__init__(width, eps)
        self.scale = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "*n width"]) -> Float[Array, "*n width"]:
        """Normalise, then scale, all in float32."""
        y = self.normalised(x)
        return (y * (1 + _row(self.scale[...], y))).astype(x.dtype)


def _row(scale: Float[Array, " width"], x: Array) -> Array:
    return scale.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
