"""RoBERTa, Liu et al., arXiv 1907.11692, and XLM-R: BERT with other heads."""

from collections.abc import Mapping
from typing import Any, Literal

from flax import nnx
from jaxtyping import Array

from mda_jax.converters.models import bert
from mda_jax.converters.models.layers import Activation


class Config(bert.Config):
    """Fields of `config.json`."""

    model_type: Literal["roberta", "xlm-roberta"] = "roberta"
    vocab_size: int = 50265
    pad_token_id: int = 1

    @property
    def padding(self) -> int:
        """The token from whose id on places are counted."""
        return self.pad_token_id

    @property
    def activation_of_words(self) -> Activation:
        """That of the head of masked words: always the same."""
        return "gelu"


class XlmConfig(Config):
    """The same of XLM-R."""

    vocab_size: int = 30522


def _read(config: Mapping[str, Any]) -> Config:
    kind = XlmConfig if config.get("model_type") == "xlm-roberta" else Config
    return kind.read(config)


def build(
    config: Mapping[str, Any], leaves: Mapping[str, tuple[int, ...]], rngs: nnx.Rngs
) -> bert.Bert:
    """The model of a checkpoint, as for BERT."""
    return bert.Bert(_read(config), leaves, rngs)


def example(config: Mapping[str, Any], key: Array) -> tuple[Array, ...]:
    """Random inputs: tokens of two texts."""
    return _read(config).example(key)


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of heads."""
    return _read(config).sizes
