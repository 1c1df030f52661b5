"""Gemma 2 and the language model of Gemma 3: norms on both sides of each block."""

from typing import ClassVar, Literal

from mda_jax.converters.models.decoder import Models
from mda_jax.converters.models.decoder_config import Kind, LayeredConfig
from mda_jax.converters.models.layers import Activation
from mda_jax.converters.models.llama import Gemma
from mda_jax.converters.models.rope import Default, Rope, Rotary


class Gemma2(Gemma, LayeredConfig):
    """Gemma 2, arXiv 2408.00118."""

    norms_after: ClassVar[bool] = True

    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int | None = 4
    hidden_activation: Activation | None = "gelu_pytorch_tanh"
    query_pre_attn_scalar: float = 256
    sliding_window: int | None = 4096
    sliding_window_size: int | None = None  # the same again, in the first configs
    final_logit_softcapping: float | None = 30.0
    attn_logit_softcapping: float | None = 50.0

    @property
    def scale(self) -> float:
        """Of a width of its own."""
        return self.query_pre_attn_scalar**-0.5

    @property
    def caps(self) -> tuple[float | None, float | None]:
        """As stated."""
        return self.attn_logit_softcapping, self.final_logit_softcapping

    @property
    def usual_kinds(self) -> tuple[Kind, ...]:
        """In turn."""
        return self.every(2)


class Gemma3(Gemma2):
    """The language model of Gemma 3, arXiv 2503.19786."""

    norms_of_heads: ClassVar[bool] = True

    vocab_size: int = 262208
    max_position_embeddings: int = 131072
    sliding_window_pattern: int = 6
    final_logit_softcapping: float | None = None
    attn_logit_softcapping: Literal[None] = None
    rope_theta: float = 1e6
    rope_local_base_freq: float = 1e4
    rope_parameters: dict[Kind, Rope | None] | None = None  # type: ignore[assignment]

    @property
    def usual_kinds(self) -> tuple[Kind, ...]:
        """Five to one, unless stated."""
        return self.every(self.sliding_window_pattern)

    def rotary(self, kind: Kind) -> Rotary:
        """Shorter waves where layers slide; no scaling there but one of their own."""
        own = (self.rope_parameters or {}).get(kind) or Default()
        full = kind == "full_attention"
        scaling = self.rope_scaling if full and self.rope_scaling else own
        theta = self.rope_theta if full else self.rope_local_base_freq
        return self.rotary_of(scaling, theta)


MODELS = Models({"gemma2": Gemma2, "gemma3_text": Gemma3})
build, example, sizes = MODELS.build, MODELS.example, MODELS.sizes
