"""What a PEFT adapter says about itself: the strength and the form of its changes."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mda_jax.pipeline.errors import MergeError
from mda_jax.pipeline.sidecars import read_json


CONFIG = "adapter_config.json"
_REMEDY = "Merge it with PEFT (merge_and_unload), and give the merged model."
_HARMLESS = frozenset(  # for the weights that come out, whatever they say
    "auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config"
    " exclude_modules inference_mode layers_pattern layers_to_transform loftq_config"
    " lora_dropout lora_ga_config megatron_core peft_type peft_version"
    " qalora_group_size revision runtime_config target_modules task_type".split()
)


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as e:
        raise ValueError(f"{pattern!r} is no regular expression ({e})") from e
    return pattern


_Number = TypeVar("_Number", int, float)
_Modules = Annotated[str, AfterValidator(_compiles)]
_Rank = Annotated[int, Field(ge=1)]
_Alpha = Annotated[float, Field(allow_inf_nan=False)]


class Lora(BaseModel):
    """The settings of an adapter that decide about the weights.

    An initialisation that changes the model's own weights (PiSSA, OLoRA, LoftQ) is
    not among the known ones: the model's files do not have the weights it was trained
    on.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    r: _Rank
    lora_alpha: _Alpha
    use_rslora: bool = False
    rank_pattern: dict[_Modules, _Rank] = {}
    alpha_pattern: dict[_Modules, _Alpha] = {}
    fan_in_fan_out: bool = False
    bias: Literal["none", "all", "lora_only"] = "none"
    modules_to_save: list[str] = []
    init_lora_weights: bool | Literal["gaussian", "eva", "orthogonal"] = True

    def rank(self, module: str) -> int:
        """The rank of one module's change."""
        return _of_module(self.rank_pattern, module, self.r)

    def scale(self, module: str) -> float:
        """What the product of one module's factors is multiplied by.

        >>> lora = Lora(r=4, lora_alpha=8, alpha_pattern={"q_proj": 16})
        >>> lora.scale("h.0.q_proj"), lora.scale("h.0.v_proj")
        (4.0, 2.0)
        """
        alpha = _of_module(self.alpha_pattern, module, self.lora_alpha)
        rank = self.rank(module)
        return alpha / (rank**0.5 if self.use_rslora else rank)


def read_lora(folder: Path) -> Lora:
    """Read the configuration of an adapter.

    Args:
      folder: of the adapter.

    Returns:
      Its settings; everything else in the configuration is switched off.

    Raises:
      MergeError: there is none, or it asks for more than plain LoRA.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise MergeError(f"{folder}: no {CONFIG}; give the folder of an adapter.")
    content = read_json(file)
    if not isinstance(content, dict):
        raise MergeError(f"{file}: expected a mapping of settings. Copy it again.")
    if content.get("peft_type") != "LORA":
        raise _not_plain(file, "peft_type", content.get("peft_type"))
    given = {k: v for k, v in content.items() if k not in _HARMLESS and v is not None}
    for key in given.keys() - Lora.model_fields.keys():
        if given.pop(key):
            raise _not_plain(file, key, content[key])
    try:
        return Lora.model_validate(given)
    except ValidationError as e:
        raise _worded(file, e) from e


def _of_module(
    patterns: Mapping[str, _Number], module: str, default: _Number
) -> _Number:
    """The value of the first pattern that matches the end of a module's name."""
    ends = (n for p, n in patterns.items() if re.fullmatch(rf"(.*\.)?({p})", module))
    return next(ends, default)


def _worded(file: Path, errors: ValidationError) -> MergeError:
    problem = errors.errors()[0]
    key, got = str(problem["loc"][0]), problem["input"]
    if key == "init_lora_weights":
        return _not_plain(file, key, got)
    if problem["type"] == "missing":
        return MergeError(f"{file}: {key!r} is missing. Copy the file again.")
    where = ".".join(map(str, problem["loc"]))
    return MergeError(f"{file}: {where!r}: {problem['msg']}, got {got!r}.")


def _not_plain(file: Path, key: str, value: Any) -> MergeError:
    return MergeError(
        f"{file}: {key!r} is {value!r}; only what plain LoRA does can be added exactly."
        f" {_REMEDY}"
    )
