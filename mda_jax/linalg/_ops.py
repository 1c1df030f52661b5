"""Matrix products in full precision, and what every kernel does to its input."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float


Function = TypeVar("Function", bound=Callable[..., Any])


def in_float32(f: Function) -> Function:
    """`f` in float32 for arrays of a narrower type, the result cast to theirs once."""

    @wraps(f)
    def wide(*args: Any, **options: Any) -> Any:
        first = jnp.result_type(jax.tree.leaves((args, options))[0])
        if not _is_narrow(first):
            return f(*args, **options)
        args, options = jax.tree.map(_widened, (args, options))
        return jax.tree.map(lambda y: y.astype(first), f(*args, **options))

    return cast(Function, wide)


def _widened(x: Any) -> Any:
    return x.astype(jnp.float32) if _is_narrow(jnp.result_type(x)) else x


def _is_narrow(dtype: DTypeLike) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32)


def transpose(x: Float[Array, "*b m n"]) -> Float[Array, "*b n m"]:
    """Swap the last two axes."""
    return jnp.swapaxes(x, -1, -2)


def matmul(
    x: Float[Array, "*b m k"], y: Float[Array, "*b k n"]
) -> Float[Array, "*b m n"]:
    """Product with the accumulation of the dtype, also where the hardware has less."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def gram(x: Float[Array, "*b m n"]) -> Float[Array, "*b n n"]:
    """Inner products of the columns, exactly symmetric."""
    return symmetric(matmul(transpose(x), x))


def symmetric(x: Float[Array, "*b n n"]) -> Float[Array, "*b n n"]:
    """The symmetric part."""
    return (x + transpose(x)) / 2


def skew(x: Float[Array, "*b n n"]) -> Float[Array, "*b n n"]:
    """Twice the antisymmetric part."""
    return x - transpose(x)


def epsilon(dtype: DTypeLike) -> float:
    """The distance from 1 to the next number."""
    return float(jnp.finfo(dtype).eps)


def safe_inverse(x: Float[Array, "*s"], keep: Bool[Array, "*s"]) -> Float[Array, "*s"]:
    """`1 / x` where `keep`, else 0; no division by zero on the way."""
    return jnp.where(keep, 1 / jnp.where(keep, x, 1), 0)


def finite(x: Float[Array, "*b m n"]) -> Bool[Array, "*b 1 1"]:
    """Whether each matrix has neither NaN nor infinity."""
    return jnp.isfinite(x).all(axis=(-2, -1), keepdims=True)


def normalised(
    x: Float[Array, "*b m n"],
) -> tuple[Float[Array, "*b m n"], Float[Array, "*b 1 1"]]:
    """Divide by the largest magnitude (1 for a zero matrix); also return it.

    Squares of the result neither overflow nor all underflow.
    """
    size = jnp.abs(x).max(axis=(-2, -1), keepdims=True)
    size = jnp.where(size > 0, size, 1)
    return x / size, size


def columns_first(
    f: Callable[[Float[Array, "*b m n"]], Float[Array, "*b m n"]],
    x: Float[Array, "*b m n"],
) -> Float[Array, "*b m n"]:
    """Apply `f`, which commutes with transposition, where it sees m >= n."""
    if x.shape[-2] >= x.shape[-1]:
        return f(x)
    return transpose(f(transpose(x)))


def identity_like(x: Float[Array, "*b d d"]) -> Float[Array, "*b d d"]:
    """Identity matrices of the shape and dtype of `x`."""
    return jnp.broadcast_to(jnp.eye(x.shape[-1], dtype=x.dtype), x.shape)
