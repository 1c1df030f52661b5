"""Reading `config.json`: fields are known, or known not to matter, or refused."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from mda_jax.converters.errors import ConversionError


# Of training, generation and bookkeeping; none changes what a trained model computes.
HARMLESS = frozenset(
    """
    attn_implementation auto_map bad_words_ids begin_suppress_tokens
    bos_token_id cache_implementation chunk_size_feed_forward classifier_dropout
    cls_token_id cross_attention_hidden_size custom_pipelines custom_text
    decoder_start_token_id directionality diversity_penalty do_sample dtype
    early_stopping encoder_no_repeat_ngram_size eos_token_id eos_token_ids
    exponential_decay_length_penalty finetuning_task forced_bos_token_id
    forced_eos_token_id gradient_checkpointing hf_tokenizer_name id2label
    init_logit_scale initializer_factor initializer_range is_encoder_decoder
    keys_to_ignore_at_inference label2id language length_penalty logit_scale_init_value
    mask_token_id max_length max_sequence_length min_length model_max_length n_ctx
    n_special name_or_path no_repeat_ngram_size nonscalar_logit_scale num_beam_groups
    num_beams num_labels num_return_sequences output_attentions output_hidden_states
    output_past output_router_logits output_scores output_tokens pad_id pad_token_id
    pooler_fc_size pooler_num_attention_heads pooler_num_fc_layers pooler_size_per_head
    pooler_type predict_special_tokens prefix pretraining_tp problem_type
    remove_invalid_values reorder_and_upcast_attn repetition_penalty return_dict
    return_dict_in_generate router_aux_loss_coef router_jitter_noise
    sbert_ce_default_activation_function sentence_transformers sep_token_id
    sinusoidal_pos_embds summary_activation summary_proj_to_labels summary_type
    summary_use_proj suppress_tokens task_specific_params temperature tf_legacy_loss
    tie_encoder_decoder tie_weights_ tokenizer_class
    tokenizer_kwargs tokenizer_mode top_k top_p torch_dtype torchscript
    transformers.js_config transformers_version typical_p unsloth_fixed unsloth_version
    use_bfloat16 use_cache xla_device
    """.split()
)

# Of image models: initial values, and which features a backbone hands out.
HARMLESS_OF_IMAGES = frozenset(
    """
    apply_layernorm drop_path_rate encoder_stride layer_scale_init_value
    layerscale_value out_features out_indices reshape_hidden_states
    stage_names use_mask_token
    """.split()
)


DEEPEST = 10_000  # layers; a config that has more is no model's
Fields = TypeVar("Fields", bound="HubConfig")


class HubConfig(BaseModel):
    """The fields of a family's `config.json` that its model reads.

    Defaults are those of the class that wrote the file, which leaves them out. A field
    for which the model has one value only is a `Literal`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    architectures: tuple[str, ...] | None = None
    tie_word_embeddings: Annotated[bool, BeforeValidator(bool)] = True  # may be null
    add_cross_attention: Literal[False] = False
    is_decoder: Literal[False] = False
    pruned_heads: dict[str, list[int]] = Field({}, max_length=0)

    @model_validator(mode="before")
    @classmethod
    def _those_that_matter(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        own = cls.model_fields
        return {n: v for n, v in content.items() if n in own or not _is_harmless(n)}

    @field_validator("*")
    @classmethod
    def _sensible(cls, value: Any, info: Any) -> Any:
        is_size = info.field_name.endswith(("_head", "_heads", "vocab_size"))
        if is_size and type(value) is int and value < 1:
            raise PydanticCustomError("size", "It must be at least 1")
        is_depth = info.field_name.endswith(("_layers", "n_layer"))
        if is_depth and type(value) is int and value > DEEPEST:
            raise PydanticCustomError("size", f"It must be at most {DEEPEST}")
        return value

    @classmethod
    def read(cls: type[Fields], content: Mapping[str, Any]) -> Fields:
        """Check a `config.json`.

        Args:
          content: as it was parsed.

        Returns:
          The fields that matter.

        Raises:
          ConversionError: a field that is not known and could change the mathematics,
            or a value that the model does not have; dropout is known not to matter.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as e:
            raise ConversionError(_line(e, cls)) from e

    def is_for(self, *purposes: str) -> bool:
        """Whether a class that the config names was made for one of these."""
        return any(p in name for name in self.architectures or () for p in purposes)

    def has_own_head(self, *purposes: str) -> bool:
        """Whether a model for one of these purposes has an untied last matrix."""
        return self.is_for(*purposes) and not self.tie_word_embeddings


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Height and width, of which a config has only one if they are equal."""
    return (size, size) if isinstance(size, int) else size


def _is_harmless(name: str) -> bool:
    quiet = "dropout" in name or "drop_rate" in name or name.endswith("pdrop")
    known = name in HARMLESS or name in HARMLESS_OF_IMAGES
    return known or name.startswith("_") or quiet


def _line(error: ValidationError, config: type[BaseModel]) -> str:
    first = error.errors(include_url=False)[0]
    name = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, list(_fields(config)), 1)
        known = f" The nearest known one is {near[0]!r}." if near else ""
        return (
            f"config.json: the field {name!r} is not known and may change what the"
            f" model computes.{known} Remove it if it does not."
        )
    found = "nothing" if first["type"] == "missing" else repr(first["input"])
    return f"config.json: {name!r} is {found[:80]}; {first['msg'].lower()}."


def _fields(config: type[BaseModel], before: str = "") -> Iterator[str]:
    """The names of the fields, of configs within too, with dots."""
    for name, field in config.model_fields.items():
        yield before + name
        if isinstance(field.annotation, type) and issubclass(
            field.annotation, BaseModel
        ):
            yield from _fields(field.annotation, f"{before}{name}.")
