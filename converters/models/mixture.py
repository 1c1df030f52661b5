"""Mixtures of experts, after Shazeer et al., arXiv 1701.06538."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from mda_jax.converters.models.layers import ACTIVATIONS


class Routing(NamedTuple):
    """How a mixture of experts is made.

    Attributes:
      experts: how many there are.
      chosen: how many of them each token asks.
      width: of the middle of each.
      normalised: whether the shares of the chosen sum to one.
    """

    experts: int
    chosen: int
    width: int
    normalised: bool


class Kernels(nnx.Module):
    """The kernels of one dense layer of all experts: [experts, in, out]."""

    def __init__(self, experts: int, inputs: int, outputs: int, rngs: nnx.Rngs):
        draw = jax.nn.initializers.lecun_normal(batch_axis=(0,))
        self.kernel = nnx.Param(draw(rngs.params(), (experts, inputs, outputs)))

    def __call__(
        self, x: Float[Array, "rows in"], counts: Int[Array, " experts"]
    ) -> Float[Array, "rows out"]:
        """Apply each expert to as many rows as are its own; the rows are in order."""
        return jax.lax.ragged_dot(x, self.kernel[...], counts)


class Experts(nnx.Module):
    """Gated MLPs side by side."""

    def __init__(
        self, experts: int, width: int, hidden: int, activation: str, rngs: nnx.Rngs
    ):
        self.gate = Kernels(experts, width, hidden, rngs)
        self.up = Kernels(experts, width, hidden, rngs)
        self.down = Kernels(experts, hidden, width, rngs)
        self.activation = activation
        self.number = experts

    def __call__(
        self,
        x: Float[Array, "n width"],
        chosen: Int[Array, "n k"],
        shares: Float[Array, "n k"],
    ) -> Float[Array, "n width"]:
        """What the chosen experts make of every token, in shares."""
        order = jnp.argsort(chosen.ravel())
        rows = order // chosen.shape[1]
        counts = jnp.bincount(chosen.ravel(), length=self.number)
        y = x[rows]
        y = ACTIVATIONS[self.activation](self.gate(y, counts)) * self.up(y, counts)
        y = self.down(y, counts) * shares.ravel()[order][:, None]
        return jnp.zeros_like(x).at[rows].add(y)


class Mixture(nnx.Module):
    """Experts, a few of which a router chooses for every token."""

    def __init__(self, width: int, activation: str, routing: Routing, rngs: nnx.Rngs):
        number, _, hidden, _ = routing
        self.router = nnx.Linear(width, number, use_bias=False, rngs=rngs)
        self.experts = Experts(number, width, hidden, activation, rngs)
        self.routing = routing

    def __call__(self, x: Float[Array, "n t width"]) -> Float[Array, "n t width"]:
        """Transform every token."""
        tokens = x.reshape(-1, x.shape[-1])
        chances = jax.nn.softmax(self.router(tokens).astype(jnp.float32))
        shares, chosen = jax.lax.top_k(chances, self.routing.chosen)
        if self.routing.normalised:
            shares = shares / jnp.sum(shares, -1, keepdims=True)
        return self.experts(tokens, chosen, shares.astype(x.dtype)).reshape(x.shape)
