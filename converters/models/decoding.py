"""Greedy decoding inside one program, with keys and values kept in a fixed length."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from mda_jax.converters.models.layers import attend, check_heads


class Memory(NamedTuple):
    """Keys and values of an attention, of all heads side by side."""

    key: Float[Array, "n s width"]
    value: Float[Array, "n s width"]

    def filled(self, new: "Memory", start: int | Int[Array, ""]) -> "Memory":
        """The same with others from a place on."""
        return Memory(
            jax.lax.dynamic_update_slice_in_dim(self.key, new.key, start, axis=1),
            jax.lax.dynamic_update_slice_in_dim(self.value, new.value, start, axis=1),
        )


class MemoryAttention(nnx.Module):
    """Attention whose keys and values are computed apart from its queries."""

    def __init__(
        self,
        width: int,
        inner: int,
        heads: int,
        rngs: nnx.Rngs,
        *,
        use_bias: bool,
        scale: float,
    ):
        check_heads(inner, heads)

        def dense(before: int, after: int) -> nnx.Linear:
            return nnx.Linear(before, after, use_bias=use_bias, rngs=rngs)

        self.query, self.key, self.value = (dense(width, inner) for _ in range(3))
        self.out = dense(inner, width)
        self.heads, self.scale = heads, scale

    def remember(self, x: Float[Array, "n s width"]) -> Memory:
        """Keys and values of what is looked at."""
        return Memory(self.key(x), self.value(x))

    def blank(self, texts: int, length: int) -> Memory:
        """A memory to be filled."""
        kernel = self.key.kernel[...]
        zeros = jnp.zeros((texts, length, kernel.shape[1]), kernel.dtype)
        return Memory(zeros, zeros)

    def __call__(
        self,
        x: Float[Array, "n t width"],
        memory: Memory,
        mask: Bool[Array, "#n #h #t s"] | None = None,
        bias: Float[Array, "#n #h t s"] | None = None,
    ) -> Float[Array, "n t width"]:
        """Look at what is remembered."""
        seen = attend(
            self.query(x),
            memory.key,
            memory.value,
            heads=self.heads,
            mask=mask,
            bias=bias,
            scale=self.scale,
        )
        return self.out(seen)


def greedy(
    step: Callable[[Int[Array, " n"], Array, Any], tuple[Float[Array, "n words"], Any]],
    state: Any,
    first: Int[Array, " n"],
    steps: int,
    *,
    ends: tuple[int, ...],
    padding: int,
) -> Int[Array, "n steps"]:
    """The likeliest token again and again, until every text has ended.

    Args:
      step: from tokens, the number of the step and a state to scores and a state.
      state: before the first step; its shapes never change.
      first: tokens to start from.
      steps: how many tokens at most.
      ends: tokens that end a text.
      padding: the token after the end.

    Returns:
      The tokens after the first.
    """

    def goes_on(carry: tuple[Array, Array, Array, Array, Any]) -> Array:
        number, _, ended, _, _ = carry
        return (number < steps) & ~ended.all()

    def again(carry: tuple[Array, Array, Array, Array, Any]) -> tuple[Any, ...]:
        number, token, ended, texts, state = carry
        scores, state = step(token, number, state)
        token = jnp.where(ended, padding, scores.argmax(-1).astype(token.dtype))
        texts = jax.lax.dynamic_update_slice_in_dim(texts, token[:, None], number, 1)
        for end in ends:
            ended |= token == end
        return number + 1, token, ended, texts, state

    blank = jnp.full((len(first), steps), padding, first.dtype)
    ended = jnp.zeros(len(first), bool)
    start = (jnp.int32(0), first, ended, blank, state)
    return jax.lax.while_loop(goes_on, again, start)[3]


def end_tokens(stated: int | list[int] | None) -> tuple[int, ...]:
    """The tokens that end a text, as `eos_token_id` of a config states them."""
    if stated is None:
        return ()
    return (stated,) if isinstance(stated, int) else tuple(stated)
