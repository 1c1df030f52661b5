"""Rotary embeddings of places, after Su et al., arXiv 2104.09864, and their scalings.

The first half of a head's numbers are the cosine parts, the second half the sine parts,
as PyTorch checkpoints on the hub have them.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Rotation(NamedTuple):
    """What a scaling starts from.

    Attributes:
      size: how many numbers of a head turn.
      theta: base of the wave lengths.
      limit: longest text the model is made for, in tokens.
      length: of the text at hand.
    """

    size: int
    theta: float
    limit: int
    length: int

    def periods(self) -> Float[np.ndarray, " half"]:
        """Wave lengths over 2 pi, from short to long, without any scaling."""
        steps = np.arange(0, self.size, 2, dtype=np.float32) / np.float32(self.size)
        return np.float32(self.theta) ** steps


class Scaling(BaseModel):
    """What all scalings have in common.

    Attributes:
      rope_theta: base of the wave lengths, where it does not stand beside.
      partial_rotary_factor: the share of a head's numbers that turn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rope_theta: float | None = None
    partial_rotary_factor: float | None = None

    def speeds(self, rotation: Rotation) -> Float[np.ndarray, " half"]:
        """Radians from one place to the next."""
        return np.float32(1) / rotation.periods()

    def gain(self, limit: int) -> float:
        """Factor of queries and keys."""
        return 1.0


class Default(Scaling):
    """None."""

    rope_type: Literal["default"] = "default"


class Linear(Scaling):
    """Places closer together, by a factor."""

    rope_type: Literal["linear"]
    factor: float

    def speeds(self, rotation: Rotation) -> Float[np.ndarray, " half"]:
        """Slower by the factor."""
        return super().speeds(rotation) / np.float32(self.factor)


class Dynamic(Scaling):
    """A base that grows with texts longer than the model is made for (NTK)."""

    rope_type: Literal["dynamic"]
    factor: float

    def speeds(self, rotation: Rotation) -> Float[np.ndarray, " half"]:
        """Slower where the text is too long."""
        size, theta, limit, length = rotation
        stretch = self.factor * max(length, limit) / limit - (self.factor - 1)
        theta *= stretch ** (size / (size - 2))
        return super().speeds(rotation._replace(theta=theta))


class Llama3(Scaling):
    """Long waves slower by a factor, short ones as they are, a ramp between."""

    rope_type: Literal["llama3"]
    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int | None = None

    def speeds(self, rotation: Rotation) -> Float[np.ndarray, " half"]:
        """By how often a wave fits into a text of the first training."""
        speeds = super().speeds(rotation)
        trained = self.original_max_position_embeddings or rotation.limit
        low, high = self.low_freq_factor, self.high_freq_factor
        fits = np.float32(trained) * speeds / np.float32(2 * math.pi)
        kept = np.clip((fits - np.float32(low)) / np.float32(high - low), 0, 1)
        return (1 - kept) * speeds / np.float32(self.factor) + kept * speeds


class Yarn(Scaling):
    """After Peng et al., arXiv 2309.00071: a ramp over waves, and warmer attention."""

    rope_type: Literal["yarn"]
    factor: float
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def speeds(self, rotation: Rotation) -> Float[np.ndarray, " half"]:
        """By how often a wave fits into a text of the first training."""
        trained = self.original_max_position_embeddings or rotation.limit

        def place(turns: float) -> float:
            wave = math.log(trained / (turns * 2 * math.pi))
            return rotation.size * wave / (2 * math.log(rotation.theta))

        first, last = place(self.beta_fast or 32.0), place(self.beta_slow or 1.0)
        if self.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(first, 0), min(last, rotation.size - 1)
        last += 0.001 * (first == last)
        waves = np.arange(rotation.size // 2, dtype=np.float32)
        slowed = np.clip((waves - np.float32(first)) / np.float32(last - first), 0, 1)
        speeds = super().speeds(rotation)
        return speeds / np.float32(self.factor) * slowed + speeds * (1 - slowed)

    def gain(self, limit: int) -> float:
        """That of the paper unless it is stated."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._warmth(self.mscale) / self._warmth(self.mscale_all_dim)
        return self._warmth(1.0)

    def _warmth(self, scale: float) -> float:
        return 0.1 * scale * math.log(self.factor) + 1 if self.factor > 1 else 1.0


class LongRope(Scaling):
    """After Ding et al., arXiv 2402.13753: a factor for every wave, found by search."""

    rope_type: Literal["longrope"]
    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    attention_factor: float | None = None

    def speeds(self, rotation: Rotation) -> Float[np.ndarray, " half"]:
        """One set of factors for texts as first trained on, one for longer ones."""
        trained = self.original_max_position_embeddings or rotation.limit
        factors = self.long_factor if rotation.length > trained else self.short_factor
        return np.float32(1) / (np.asarray(factors, np.float32) * rotation.periods())

    def gain(self, limit: int) -> float:
        """By how much longer texts are than those of the first training."""
        if self.attention_factor is not None:
            return self.attention_factor
        trained = self.original_max_position_embeddings or limit
        factor = self.factor or limit / trained
        return math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1


def _standard(content: Any) -> Any:
    """The spelling of today: `type` was the name of `rope_type`, `su` of `longrope`."""
    if not isinstance(content, Mapping):
        return content
    fields = dict(content)
    kind = fields.setdefault("rope_type", fields.pop("type", "default"))
    return fields | {"rope_type": "longrope" if kind == "su" else kind}


Rope = Annotated[
    Annotated[
        Default | Linear | Dynamic | Llama3 | Yarn | LongRope,
        Field(discriminator="rope_type"),
    ],
    BeforeValidator(_standard),
]


class Rotary(NamedTuple):
    """The rotary embedding of a layer.

    Attributes:
      scaling: what stands in `config.json`.
      size: how many numbers of a head turn.
      theta: base of the wave lengths.
      limit: longest text the model is made for, in tokens.
    """

    scaling: Scaling
    size: int
    theta: float
    limit: int

    def turns(
        self, places: Int[Array, " t"], length: int
    ) -> tuple[Float[Array, "t half"], Float[Array, "t half"]]:
        """Cosines and sines by which the heads at some places turn.

        Args:
          places: in the text, from 0.
          length: of the whole text; some scalings depend on it.
        """
        rotation = Rotation(self.size, self.theta, self.limit, length)
        speeds = jnp.asarray(self.scaling.speeds(rotation))
        angles = places.astype(jnp.float32)[:, None] * speeds[None]
        gain = self.scaling.gain(self.limit)
        return jnp.cos(angles) * gain, jnp.sin(angles) * gain


def turned(
    x: Float[Array, "n t heads depth"],
    turns: tuple[Float[Array, "t half"], Float[Array, "t half"]],
) -> Float[Array, "n t heads depth"]:
    """Turn the first numbers of every head; those beyond the cosines stay."""
    cos, sin = (wave[None, :, None] for wave in turns)
    half = cos.shape[-1]
    first, second, rest = jnp.split(x, (half, 2 * half), axis=-1)
    a, b = first.astype(jnp.float32), second.astype(jnp.float32)
    both = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return jnp.concatenate([both.astype(x.dtype), rest], axis=-1)
