"""The configuration of a merge: mergekit's YAML schema, read strictly.

Every key is either understood or refused by name, with its line.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mda_jax.pipeline.document import Document, Steps, nearest, read_document
from mda_jax.pipeline.errors import ConfigError


NOT_YET = {
    "slices": "layer slices",
    "modules": "per-module merges",
    "tokenizer": "building a tokenizer",
    "tokenizer_source": "building a tokenizer",
    "chat_template": "choosing a chat template",
    "name": "several merges in one file",
}


def _dtype_name(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


Dtype = Annotated[
    Literal["bfloat16", "float16", "float32"], BeforeValidator(_dtype_name)
]
Setting = bool | Annotated[float, Field(allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Model(_Strict):
    """One model to merge, with the parameters that are its own."""

    model: str
    parameters: dict[str, Setting] = {}


class Config(_Strict):
    """A whole merge."""

    merge_method: str
    models: Annotated[list[Model], Field(min_length=1)]
    base_model: str | None = None
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    parameters: dict[str, Setting] = {}


class Request(NamedTuple):
    """A configuration whose models exist, and the document for later errors."""

    config: Config
    document: Document
    folders: tuple[Path, ...]  # of config.models
    base: Path | None


def load(source: str | os.PathLike[str] | Mapping[str, Any]) -> Request:
    """Read a configuration.

    Args:
      source: a YAML file, or its content as a dictionary.

    Returns:
      The configuration, checked, and the folders of its models.

    Raises:
      ConfigError: anything in it is unknown, ill-typed, missing or not supported.
    """
    if isinstance(source, Mapping):
        document = Document("config", dict(source), {})
    else:
        document = read_document(Path(source))
    return _validated(_normalised(document))


def _normalised(document: Document) -> Document:
    """The document with every model reference as a string; refuses what is not yet."""
    top = document.data
    if not isinstance(top, dict):
        raise document.error((), "a merge configuration is a mapping of keys.")
    for key, what in NOT_YET.items():
        if key in top:
            raise document.error((key,), f"{key!r}: {what} is not supported yet.")
    top = dict(top)
    if top.get("base_model") is not None:
        top["base_model"] = _reference(document, ("base_model",), top["base_model"])
    if isinstance(top.get("models"), list):
        top["models"] = [
            _entry(document, ("models", i), m) for i, m in enumerate(top["models"])
        ]
    top = {k: v for k, v in top.items() if v is not None}
    _refuse_varying(document, ("parameters",), top.get("parameters"))
    return document._replace(data=top)


def _entry(document: Document, path: Steps, entry: Any) -> Any:
    """One item of `models`: a bare reference is short for `{model: reference}`."""
    if isinstance(entry, str):
        return {"model": entry}
    if isinstance(entry, dict) and entry.get("model") is not None:
        entry = {k: v for k, v in entry.items() if v is not None}
        _refuse_varying(document, (*path, "parameters"), entry.get("parameters"))
        steps = (*path, "model")
        return entry | {"model": _reference(document, steps, entry["model"])}
    return entry


def _reference(document: Document, path: Steps, value: Any) -> Any:
    """A model reference as a string, from any of the forms that mergekit accepts."""
    if not isinstance(value, dict):
        return value
    if value.get("lora") is not None:
        raise document.error(path, "'lora': merging adapters is not supported yet.")
    if value.get("revision") is not None:
        raise document.error(path, "'revision': hub revisions are not supported yet.")
    empty = {k for k in ("lora", "revision") if k in value}
    if value.keys() - empty not in ({"model"}, {"path"}):
        raise document.error(
            path, f"a model is a path or {{path: ...}}, not a mapping of {list(value)}."
        )
    return _reference(document, path, value.get("model", value.get("path")))


def _refuse_varying(document: Document, path: Steps, parameters: Any) -> None:
    """Refuse values that vary over the depth or by tensor name."""
    if not isinstance(parameters, dict):
        return
    for name, value in parameters.items():
        steps = (*path, name)
        if isinstance(value, dict) or (
            isinstance(value, list) and any(isinstance(v, dict) for v in value)
        ):
            problem = "a {filter, value} conditional is not supported yet"
            raise document.error(steps, f"{name!r}: {problem}; give one value.")
        if isinstance(value, list):
            problem = "a list (a gradient over the layers) is not supported yet"
            raise document.error(steps, f"{name!r}: {problem}; give one value.")


def _validated(document: Document) -> Request:
    try:
        config = Config.model_validate(document.data)
    except ValidationError as e:
        raise _worded(document, e) from e
    models = [
        _folder(document, ("models", i), m.model) for i, m in enumerate(config.models)
    ]
    base = config.base_model
    folder = None if base is None else _folder(document, ("base_model",), base)
    return Request(config, document, tuple(models), folder)


def _worded(document: Document, errors: ValidationError) -> ConfigError:
    """One problem in our words, a misspelt key before what is missing for it."""
    problem = min(errors.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path, where = problem["loc"], ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        known = Config if len(path) == 1 else Model
        hint = nearest(str(path[-1]), known.model_fields)
        return document.error(path, f"unknown key {where!r}; {hint}.")
    if problem["type"] == "missing":
        return document.error(path[:-1], f"{where!r} is missing.")
    if "parameters" in path[:-1]:
        return document.error(
            path,
            f"{where!r}: got {problem['input']!r}; expected a number or a boolean.",
        )
    got = "" if problem["type"] == "too_short" else f", got {problem['input']!r}"
    return document.error(path, f"{where!r}: {problem['msg']}{got}.")


def _folder(document: Document, path: Steps, reference: str) -> Path:
    """The local folder or file that a reference names."""
    folder = Path(reference).expanduser()
    if folder.exists():
        return folder
    if "+" in reference:
        why = "merging an adapter (model+adapter) is not supported yet"
    elif "@" in reference:
        why = "hub revisions (model@revision) are not supported yet"
    else:
        why = "models are local folders; download a hub model first"
    raise document.error(path, f"model {reference!r}: no such folder; {why}.")
