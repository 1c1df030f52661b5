"""Phi 3, Abdin et al., arXiv 2404.14219, and Phi 4 mini."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from mda_jax.converters.models.decoder import Models
from mda_jax.converters.models.decoder_config import SlidingConfig
from mda_jax.converters.models.rope import LongRope, Rope, Rotary, Scaling


def _longrope(content: Any) -> Any:
    """The first configs of Phi 3 say `yarn` and mean `longrope`."""
    if not isinstance(content, Mapping):
        return content
    return {k: "longrope" if v == "yarn" else v for k, v in content.items()}


class Phi3(SlidingConfig):
    """A part of each head turns."""

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


MODELS = Models({"phi3": Phi3})
build, example, sizes = MODELS.build, MODELS.example, MODELS.sizes
