"""DistilBERT, Sanh et al., arXiv 1910.01108: BERT without segments and pooler."""

from collections.abc import Mapping
from typing import Any, Literal

from flax import nnx
from jaxtyping import Array
from pydantic import Field

from mda_jax.converters.models import bert
from mda_jax.converters.models.layers import Activation


class Config(bert.Config):
    """Fields of `config.json`, some of them under names of their own."""

    model_type: Literal["distilbert"] = "distilbert"
    hidden_size: int = Field(768, alias="dim")
    num_hidden_layers: int = Field(6, alias="n_layers")
    num_attention_heads: int = Field(12, alias="n_heads")
    intermediate_size: int = Field(3072, alias="hidden_dim")
    hidden_act: Activation = Field("gelu", alias="activation")
    type_vocab_size: Literal[0] = 0
    layer_norm_eps: float = Field(1e-12, ge=1e-12, le=1e-12)


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> bert.Bert:
    """The model of a checkpoint, as for BERT."""
    return bert.Bert(Config.read(config), leaves, rngs)


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: tokens of two texts."""
    return Config.read(config).example(key)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    return Config.read(config).sizes
