"""What the Flax Linen transformers of Google's JAX code are made of."""

from collections.abc import Iterator

from mda_jax.converters.dialects import Part, linear, norm, param
from mda_jax.converters.rules import Rule
from mda_jax.converters.transforms import SAME, UNSTACK, fold


def attention(outer: str, inner: str, heads: str) -> Iterator[Part | Rule]:
    """Attention, whose kernels have an axis of heads.

    Args:
      outer: its name there.
      inner: its name here; with a gathering hole if its layers are scanned.
      heads: the name of their number.
    """
    layers = UNSTACK if "*" in inner else SAME
    ends = f"{outer}/{{a:query|key|value}}", f"{inner}/{{a:query|key|value}}"
    for leaf, axis in (("kernel", 1), ("bias", 0)):
        outside, inside = (f"{end}/{leaf}" for end in ends)
        yield Rule((outside,), (inside,), layers | fold(axis, heads, -1))
    out = f"{outer}/out/kernel", f"{inner}/out/kernel"
    yield Rule((out[0],), (out[1],), layers | fold(0, heads, -1))
    yield param(f"{outer}/out/bias", f"{inner}/out/bias")


def layer(
    outer: str, inner: str, heads: str, places: tuple[int, int, int] = (0, 1, 0)
) -> Iterator[Part | Rule]:
    """A layer of an encoder.

    Args:
      outer: as for `attention`.
      inner: the same.
      heads: the same.
      places: the numbers that its attention, second norm and MLP have there.
    """
    first, second, mlp = places
    seen = f"{outer}/MultiHeadDotProductAttention_{first}"
    yield from attention(seen, f"{inner}/attention", heads)
    norms = f"{outer}/LayerNorm_{{n:0|{second}}}"
    yield norm(norms, f"{inner}/{{n:attention|mlp}}_norm")
    dense = f"{outer}/MlpBlock_{mlp}/Dense_{{m:0|1}}"
    yield linear(dense, f"{inner}/mlp/{{m:up|down}}")
