"""Qwen 3 with experts, arXiv 2505.09388."""

from typing import ClassVar, Literal

from pydantic import AliasChoices, Field

from mda_jax.converters.models.decoder import Models
from mda_jax.converters.models.decoder_config import BiasedConfig, ChosenWindowConfig
from mda_jax.converters.models.mixture import Routing


class Qwen3Moe(BiasedConfig, ChosenWindowConfig):
    """Experts in all layers, unless stated."""

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


MODELS = Models({"qwen3_moe": Qwen3Moe})
build, example, sizes = MODELS.build, MODELS.example, MODELS.sizes
