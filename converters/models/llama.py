"""Llama, Touvron et al., arXiv 2302.13971, and the decoders built like it."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import jax
from flax import nnx
from jaxtyping import Array
from pydantic import AliasChoices, BeforeValidator, Field

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.models.decoder import Decoder
from mda_jax.converters.models.decoder_config import (
    BiasedConfig,
    ChosenWindowConfig,
    DecoderConfig,
    Kind,
    LayeredConfig,
    SlidingConfig,
)
from mda_jax.converters.models.layers import Activation
from mda_jax.converters.models.mixture import Routing
from mda_jax.converters.models.norms import OffsetNorm, RmsNorm
from mda_jax.converters.models.rope import Default, LongRope, Rope, Rotary, Scaling


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


class Mixtral(Mistral):
    """Mistral with experts, Jiang et al., arXiv 2401.04088."""

    rms_norm_eps: float = 1e-5
    rope_theta: float = 1e6
    sliding_window: int | None = None
    num_experts_per_tok: int = 2
    num_local_experts: int = Field(
        8, validation_alias=AliasChoices("num_local_experts", "num_experts")
    )

    def routing(self, layer: int) -> Routing | None:
        """Of every layer."""
        number, chosen = self.num_local_experts, self.num_experts_per_tok
        return Routing(number, chosen, self.intermediate_size, True)


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


class Qwen3Moe(BiasedConfig, ChosenWindowConfig):
    """Qwen 3 with experts."""

    norms_of_heads: ClassVar[bool] = True

    vocab_size: int = 151936
    hidden_size: int = 2048
    intermediate_size: int = 6144
    num_hidden_layers: int = 24
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 4
    max_position_embeddings: int = 32768
    max_window_layers: int = 28  # its window is for every layer
    decoder_sparse_step: int = 1
    mlp_only_layers: tuple[int, ...] | None = None
    moe_intermediate_size: int = 768
    norm_topk_prob: bool = False
    num_experts_per_tok: int = 8
    num_experts: int = Field(
        128, validation_alias=AliasChoices("num_experts", "num_local_experts")
    )
    qkv_bias: Literal[False] = False
    use_qk_norm: Literal[True] = True
    shared_expert_intermediate_size: Literal[0] = 0

    def routing(self, layer: int) -> Routing | None:
        """Of every so manieth layer, but for those that are named."""
        dense = layer in (self.mlp_only_layers or ())
        if dense or not self.num_experts or (layer + 1) % self.decoder_sparse_step:
            return None
        return Routing(
            self.num_experts,
            self.num_experts_per_tok,
            self.moe_intermediate_size,
            self.norm_topk_prob,
        )


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


def _longrope(content: Any) -> Any:
    """The first configs of Phi 3 say `yarn` and mean `longrope`."""
    if not isinstance(content, Mapping):
        return content
    return {k: "longrope" if v == "yarn" else v for k, v in content.items()}


class Phi3(SlidingConfig):
    """Phi 3, arXiv 2404.14219, and Phi 4 mini."""

    vocab_size: int = 32064
    hidden_size: int = 3072
    intermediate_size: int = 8192
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    max_position_embeddings: int = 4096
    original_max_position_embeddings: int = 4096
    rope_scaling: Annotated[Rope | None, BeforeValidator(_longrope)] = None
    rope_parameters: Annotated[Rope | None, BeforeValidator(_longrope)] = None
    partial_rotary_factor: float = 1.0
    rms_norm_eps: float = 1e-5
    pad_token_id: int | None = 32000
    attention_bias: Literal[False] = False
    mlp_bias: Literal[False] = False
    lm_head_bias: Literal[False] = False
    full_attn_mod: Literal[1] = 1
    interpolate_factor: Literal[1] = 1

    def rotary_of(self, scaling: Scaling, theta: float) -> Rotary:
        """Of a part of each head; the length of the first training stands beside."""
        if isinstance(scaling, LongRope):
            trained = self.original_max_position_embeddings
            update = {"original_max_position_embeddings": trained}
            scaling = scaling.model_copy(update=update)
        part = scaling.partial_rotary_factor or self.partial_rotary_factor
        size = int(self.depth * part)
        theta = scaling.rope_theta or theta
        return Rotary(scaling, size, theta, self.max_position_embeddings)


CONFIGS: dict[str, type[DecoderConfig]] = {
    "llama": Llama,
    "mistral": Mistral,
    "mixtral": Mixtral,
    "qwen2": Qwen2,
    "qwen3": Qwen3,
    "qwen3_moe": Qwen3Moe,
    "gemma": Gemma,
    "gemma2": Gemma2,
    "gemma3_text": Gemma3,
    "phi3": Phi3,
}


def read(config: Mapping[str, Any]) -> DecoderConfig:
    """The fields of a `config.json` that matter.

    Args:
      config: its content.

    Returns:
      Those of its model type.

    Raises:
      ConversionError: another model type; a field that is not known, or a value that
        the model does not have.
    """
    kind = config.get("model_type")
    if kind not in CONFIGS:
        raise ConversionError(
            f"config.json: 'model_type' is {kind!r}; expected one of"
            f" {', '.join(sorted(CONFIGS))}."
        )
    return CONFIGS[kind].read(config)


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> Decoder:
    """The model of a checkpoint.

    Args:
      config: content of `config.json`.
      leaves: shapes by name; they decide which heads there are.
      rngs: for the first weights.

    Returns:
      The model with weights drawn at random.

    Raises:
      ConversionError: a field of the config is not understood.
    """
    return Decoder(read(config), leaves, rngs)


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: tokens of two texts."""
    known = read(config)
    length = min(known.max_position_embeddings, 16)
    return (jax.random.randint(key, (2, length), 0, known.vocab_size),)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    known = read(config)
    return {"heads": known.num_attention_heads, "kv_heads": known.kv_heads}
