"""Reading the `config.json` of decoders like Llama."""

from typing import ClassVar, Literal

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.models.config import HubConfig
from mda_jax.converters.models.layers import Activation
from mda_jax.converters.models.mixture import Routing
from mda_jax.converters.models.norms import RmsNorm
from mda_jax.converters.models.rope import Default, Rope, Rotary, Scaling


Kind = Literal["full_attention", "sliding_attention"]


class DecoderConfig(HubConfig):
    """The fields of `config.json` that all decoders have, and what follows from them.

    The properties are what the layers ask for; a model type for which one is different
    overrides it.
    """

    norm: ClassVar[type[RmsNorm]] = RmsNorm
    norms_of_heads: ClassVar[bool] = False
    norms_after: ClassVar[bool] = False

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    hidden_act: Activation = "silu"
    max_position_embeddings: int
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Rope | None = None
    rope_parameters: Rope | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __hash__(self) -> int:
        """Models are compared by their configs, and some fields are mappings."""
        return hash(self.model_dump_json())

    @property
    def depth(self) -> int:
        """Width of a head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def biases(self) -> tuple[bool, bool, bool]:
        """Of queries, keys and values; of what attention gives; of the MLP."""
        return False, False, False

    @property
    def activation(self) -> str:
        """Name of that of the MLP."""
        return self.hidden_act

    @property
    def scale(self) -> float:
        """Of the scores of attention."""
        return self.depth**-0.5

    @property
    def caps(self) -> tuple[float | None, float | None]:
        """Soft bounds of the scores of attention and of the logits."""
        return None, None

    @property
    def embedding_scale(self) -> float:
        """Of the vectors of the words."""
        return 1.0

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What each layer looks at."""
        kind: Kind = "full_attention"
        return (kind,) * self.num_hidden_layers

    @property
    def windows(self) -> dict[Kind, int | None]:
        """How many places the layers of a kind look back, their own among them."""
        return {"full_attention": None}

    @property
    def is_tied(self) -> bool:
        """Whether logits come from the embedding where there is no `lm_head`."""
        return self.tie_word_embeddings and self._is_for("ForCausalLM")

    @property
    def lacks_head(self) -> bool:
        """Whether a checkpoint without `lm_head` is not whole."""
        return self.has_own_head("ForCausalLM")

    def _is_for(self, purpose: str) -> bool:
        named = self.architectures
        return not named or any(name.endswith(purpose) for name in named)

    def rotary(self, kind: Kind) -> Rotary:
        """The rotary embedding of the layers of one kind."""
        scaling = self.rope_scaling or self.rope_parameters or Default()
        return self.rotary_of(scaling, self.rope_theta)

    def rotary_of(self, scaling: Scaling, theta: float) -> Rotary:
        """That of a scaling, which may have a base of its own."""
        if scaling.partial_rotary_factor not in (None, 1):
            raise ConversionError(
                "config.json: 'partial_rotary_factor' is"
                f" {scaling.partial_rotary_factor}; expected 1 for this model type."
            )
        theta = scaling.rope_theta or theta
        return Rotary(scaling, self.depth, theta, self.max_position_embeddings)

    def routing(self, layer: int) -> Routing | None:
        """The experts of a layer; none where it has one MLP."""
        return None


class BiasedConfig(DecoderConfig):
    """A config that states whether the layers of attention have biases."""

    attention_bias: bool = False

    @property
    def biases(self) -> tuple[bool, bool, bool]:
        """All of attention's alike."""
        return self.attention_bias, self.attention_bias, False


class SlidingConfig(DecoderConfig):
    """A config whose layers may look back over a window only."""

    sliding_window: int | None = None

    @property
    def window(self) -> int | None:
        """How many places layers look back, if they slide."""
        return self.sliding_window

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """All alike: the window is for every layer."""
        kind: Kind = "sliding_attention" if self.window else "full_attention"
        return (kind,) * self.num_hidden_layers

    @property
    def windows(self) -> dict[Kind, int | None]:
        """The window of those that slide."""
        return super().windows | {"sliding_attention": self.window}


class ChosenWindowConfig(SlidingConfig):
    """A config that states whether its window is used."""

    use_sliding_window: bool = False
    sliding_window: int | None = 4096

    @property
    def window(self) -> int | None:
        """None unless it is used."""
        return self.sliding_window if self.use_sliding_window else None


class LayeredConfig(SlidingConfig):
    """A config that may state what each layer looks at."""

    layer_types: tuple[Kind, ...] | None = None

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """As stated, or else as usual."""
        kinds = self.layer_types or self.usual_kinds
        if len(kinds) != self.num_hidden_layers:
            raise ConversionError(
                f"config.json: 'layer_types' has {len(kinds)} entries;"
                f" 'num_hidden_layers' is {self.num_hidden_layers}."
            )
        if "sliding_attention" in kinds and not self.window:
            raise ConversionError(
                "config.json: 'layer_types' has sliding layers; 'sliding_window' does"
                " not state how far they look."
            )
        return kinds

    @property
    def usual_kinds(self) -> tuple[Kind, ...]:
        """Where the config does not state them."""
        return super().kinds

    def every(self, period: int) -> tuple[Kind, ...]:
        """Sliding layers but for every so manieth."""
        return tuple(
            "sliding_attention" if (i + 1) % period else "full_attention"
            for i in range(self.num_hidden_layers)
        )
