"""Llama, Touvron et al., arXiv 2302.13971, and the decoders built like it."""

import math
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from mda_jax.converters.models.decoder import Models
from mda_jax.converters.models.decoder_config import (
    BiasedConfig,
    ChosenWindowConfig,
    Kind,
    LayeredConfig,
    SlidingConfig,
)
from mda_jax.converters.models.layers import Activation
from mda_jax.converters.models.norms import OffsetNorm, RmsNorm


class Llama(BiasedConfig):
    """Llama 1 to 3.2."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    max_position_embeddings: int = 2048
    mlp_bias: bool = False

    @property
    def biases(self) -> tuple[bool, bool, bool]:
        """As stated."""
        return self.attention_bias, self.attention_bias, self.mlp_bias


class Mistral(SlidingConfig):
    """Mistral, Jiang et al., arXiv 2310.06825."""

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    max_position_embeddings: int = 4096 * 32
    sliding_window: int | None = 4096


class Qwen2(ChosenWindowConfig, LayeredConfig):
    """Qwen 2 and 2.5, arXiv 2407.10671."""

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 22016
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    max_window_layers: int = 28
    use_mrope: Literal[False] = False

    @property
    def biases(self) -> tuple[bool, bool, bool]:
        """Of queries, keys and values alone."""
        return True, False, False

    @property
    def usual_kinds(self) -> tuple[Kind, ...]:
        """The upper layers slide, if any do."""
        whole = self.max_window_layers if self.window else self.num_hidden_layers
        return tuple(
            "full_attention" if i < whole else "sliding_attention"
            for i in range(self.num_hidden_layers)
        )


class Qwen3(BiasedConfig, Qwen2):
    """Qwen 3, arXiv 2505.09388."""

    norms_of_heads: ClassVar[bool] = True

    head_dim: int | None = 128


def _tanh_gelu(name: Any) -> Any:
    """The first configs of Gemma say `gelu` and mean its approximation by tanh."""
    return "gelu_pytorch_tanh" if name == "gelu" else name


class Gemma(BiasedConfig):
    """Gemma, arXiv 2403.08295."""

    norm: ClassVar[type[RmsNorm]] = OffsetNorm

    vocab_size: int = 256000
    hidden_size: int = 3072
    intermediate_size: int = 24576
    num_hidden_layers: int = 28
    num_attention_heads: int = 16
    num_key_value_heads: int | None = 16
    head_dim: int | None = 256
    hidden_act: Annotated[Activation, BeforeValidator(_tanh_gelu)] = "gelu_pytorch_tanh"
    hidden_activation: Activation | None = None
    max_position_embeddings: int = 8192
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    use_bidirectional_attention: Literal[False] | None = None

    @property
    def activation(self) -> str:
        """The newer of its two names counts."""
        return self.hidden_activation or self.hidden_act

    @property
    def embedding_scale(self) -> float:
        """The root of the width."""
        return math.sqrt(self.hidden_size)


MODELS = Models(
    {
        "llama": Llama,
        "mistral": Mistral,
        "qwen2": Qwen2,
        "qwen3": Qwen3,
        "gemma": Gemma,
    }
)
build, example, sizes = MODELS.build, MODELS.example, MODELS.sizes
