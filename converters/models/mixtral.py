"""Mixtral, Jiang et al., arXiv 2401.04088."""

from pydantic import AliasChoices, Field

from mda_jax.converters.models.decoder import Models
from mda_jax.converters.models.llama import Mistral
from mda_jax.converters.models.mixture import Routing


class Mixtral(Mistral):
    """Mistral with experts."""

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


MODELS = Models({"mixtral": Mixtral})
build, example, sizes = MODELS.build, MODELS.example, MODELS.sizes
