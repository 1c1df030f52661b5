"""The configuration of a merge: mergekit's YAML schema, read strictly.

Every key is either understood or refused by name, with its line.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from mda_jax.pipeline.document import Document, Steps, nearest, read_document
from mda_jax.pipeline.errors import ConfigError
from mda_jax.pipeline.references import Located, locate
from mda_jax.pipeline.settings import Conditional, Settings, Strict


_LAYOUTS = ("models", "slices", "modules")
_SIGNS = {"model": "", "path": "", "revision": "@", "lora": "+"}  # in a reference


def _dtype_name(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


def _reference(value: Any, *way: str) -> Any:
    """A model reference as a string, from any of the forms that mergekit accepts."""
    if not isinstance(value, dict):
        return value
    if unknown := value.keys() - _SIGNS.keys():
        key = min(unknown)
        hint = nearest(key, _SIGNS)
        raise _problem(f"unknown key {key!r} of a model; {hint}", *way, key)
    given = {key: each for key, each in value.items() if each is not None}
    if given.keys() - {"lora", "revision"} not in ({"model"}, {"path"}):
        wanted = "a model is a name, {path, revision} or {model, lora}"
        raise _problem(f"{wanted}, not a mapping of {list(value)}", *way)
    texts = {key: _reference(given[key], *way, key) for key in _SIGNS if key in given}
    for key, text in texts.items():
        if not isinstance(text, str):
            problem = f"{key!r}: got {text!r}; expected text (in quotes, maybe)"
            raise _problem(problem, *way, key)
    return "".join(_SIGNS[key] + text for key, text in texts.items())


def _range(value: Any) -> Any:
    if value[0] < 0 or value[1] <= value[0]:
        raise _problem(f"got {value}; expected [first, end] with 0 <= first < end")
    return value


def _problem(text: str, *below: str) -> PydanticCustomError:
    """A problem, and the way to it from the node that is validated."""
    return PydanticCustomError("config", "{text}", {"text": text, "below": below})


Dtype = Annotated[
    Literal["bfloat16", "float16", "float32"], BeforeValidator(_dtype_name)
]
Reference = Annotated[str, BeforeValidator(lambda value: _reference(value))]
LayerRange = Annotated[
    list[int], Field(min_length=2, max_length=2), AfterValidator(_range)
]


class Model(Strict):
    """One model to merge, with the parameters that are its own."""

    model: Reference
    parameters: Settings = Field(default={})


class Source(Strict):
    """Layers of one model, `[first, end)`, that go into a slice."""

    model: Reference
    layer_range: LayerRange | None = None
    parameters: Settings = Field(default={})


class Slice(Strict):
    """Layers of the output, merged from as many layers of each source."""

    sources: Annotated[list[Source], Field(min_length=1)]
    base_model: Reference | None = None
    parameters: Settings = Field(default={})
    residual_weight: float | None = None  # read by mergekit, and not used


class Row(Strict):
    """Where the row of a token is taken from; no kind, for a model's own row of it."""

    kind: Literal["zero", "model_token"] | None = None
    model: Reference | None = None
    token_id: Annotated[int, Field(ge=0)] | None = None
    token: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_reference(cls, data: Any) -> Any:
        is_row = isinstance(data, dict) and data.keys() - _SIGNS.keys()
        return data if is_row else {"model": data}

    @model_validator(mode="after")
    def _is_complete(self) -> "Row":
        chosen = {"token", "token_id"} & self.model_fields_set
        if self.kind is None and chosen:
            raise _problem("a token of a model takes 'kind: model_token'")
        if self.kind == "zero" and self.model_fields_set != {"kind"}:
            raise _problem("kind: zero takes nothing else")
        if self.kind == "model_token" and (self.model is None or len(chosen) != 1):
            wanted = "'model' and one of 'token' and 'token_id'"
            raise _problem(f"kind: model_token takes {wanted}")
        return self


class Token(Strict):
    """A token of the output; no source, for the rule that holds for all tokens."""

    source: Row | None = None
    force: bool = False


class TokenizerOptions(Strict):
    """The vocabulary of the output: `union`, `base`, or that of a model."""

    source: Reference = "union"
    tokens: dict[str, Token] = Field(default={})
    pad_to_multiple_of: Annotated[int, Field(gt=0)] | None = None


Models = Annotated[list[Model], Field(min_length=1)]
Slices = Annotated[list[Slice], Field(min_length=1)]


class _OneOf(Strict):
    @model_validator(mode="before")
    @classmethod
    def _exactly_one(cls, data: Any) -> Any:
        fields = [name for name in _LAYOUTS if name in cls.model_fields]
        content = data if isinstance(data, dict) else {}
        given = [name for name in fields if content.get(name) is not None]
        if len(given) > 1:
            listed = " and ".join(map(repr, given))
            raise _problem(f"{listed} exclude each other; give one of them")
        return data


class Module(_OneOf):
    """A part of the model that is merged in its own way."""

    models: Models | None = None
    slices: Slices | None = None
    parameters: Settings = Field(default={})


class Config(_OneOf):
    """A whole merge."""

    name: str | None = None  # for other documents of the file
    merge_method: str
    models: Models | None = None
    slices: Slices | None = None
    modules: Annotated[dict[str, Module], Field(min_length=1)] | None = None
    base_model: Reference | None = None
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    parameters: Settings = Field(default={})
    tokenizer: TokenizerOptions | None = None
    tokenizer_source: Reference | None = None
    chat_template: str | None = None

    @model_validator(mode="after")
    def _one_tokenizer(self) -> "Config":
        if self.tokenizer is not None and self.tokenizer_source is not None:
            which = "'tokenizer' and 'tokenizer_source' exclude each other"
            raise _problem(f"{which}; give 'tokenizer'")
        return self

    @property
    def tokenizer_options(self) -> TokenizerOptions | None:
        """What is asked of the tokenizer, in either spelling."""
        if self.tokenizer_source is not None:
            return TokenizerOptions(source=self.tokenizer_source)
        return self.tokenizer


class Level(NamedTuple):
    """Parameters of one place in the document."""

    steps: Steps  # of the place, without `parameters`
    settings: Settings


class Ingredient(NamedTuple):
    """A model of a section."""

    name: str  # as written
    model: Located
    layers: range | None  # None: all
    own: Level

    @property
    def folder(self) -> Path:
        """Of the model itself, without its adapter."""
        return self.model.folder


class Section(NamedTuple):
    """A part of the output: some layers, a module, or all of it."""

    ingredients: tuple[Ingredient, ...]
    base: int | None  # which of the ingredients
    levels: tuple[Level, ...]  # parameters for all ingredients, the nearest first
    module: str | None
    steps: Steps


class Request(NamedTuple):
    """A configuration whose models exist, and the document for later errors."""

    config: Config
    document: Document
    sections: tuple[Section, ...]
    named: dict[str, Located]  # by reference: the base, and those of the tokenizer

    @property
    def base(self) -> Located | None:
        """The base of the whole merge."""
        return self.named.get(self.config.base_model or "")

    @property
    def models(self) -> dict[Path, Located]:
        """Every model that is merged, by what stands for it."""
        return {i.model.path: i.model for s in self.sections for i in s.ingredients}

    @property
    def is_sliced(self) -> bool:
        """Whether layers are picked one slice at a time."""
        return any(i.layers is not None for s in self.sections for i in s.ingredients)


def load(source: Document | str | os.PathLike[str] | Mapping[str, Any]) -> Request:
    """Read a configuration.

    Args:
      source: a YAML file, or its content as a dictionary, or parsed already.

    Returns:
      The configuration, checked, and what goes into each part of the output.

    Raises:
      ConfigError: anything in it is unknown, ill-typed, missing or not supported.
    """
    if isinstance(source, Document):
        document = source
    elif isinstance(source, Mapping):
        document = Document("config", dict(source), {})
    else:
        document = read_document(Path(source))
    return _validated(_normalised(document))


def _normalised(document: Document) -> Document:
    """The document with every model and token as a mapping."""
    top = document.data
    if not isinstance(top, dict):
        raise document.error((), "a merge configuration is a mapping of keys.")
    _check_keys(document, top, ())
    return document._replace(data=_models_by_name(_with_tokens(top)))


def _check_keys(document: Document, node: Any, steps: Steps) -> None:
    """Refuse keys that YAML takes for a number, a truth value or nothing."""
    if isinstance(node, dict):
        for key, value in node.items():
            if not isinstance(key, str):
                problem = (
                    f"the key {key!r} is no text; expected a name, maybe in quotes"
                )
                raise document.error((*steps, key), f"{problem}.")
            _check_keys(document, value, (*steps, key))
    elif isinstance(node, list):
        for i, each in enumerate(node):
            _check_keys(document, each, (*steps, i))


def _with_tokens(top: dict[str, Any]) -> dict[str, Any]:
    """Tokens of the tokenizer that come without options have none, but are there."""
    options = top.get("tokenizer")
    if not isinstance(options, dict) or not isinstance(options.get("tokens"), dict):
        return top
    tokens = {t: {} if own is None else own for t, own in options["tokens"].items()}
    return top | {"tokenizer": options | {"tokens": tokens}}


def _models_by_name(node: Any) -> Any:
    """A bare reference in a list of models is short for `{model: reference}`."""
    if not isinstance(node, dict):
        return node
    node = {k: _models_by_name(v) if k != "parameters" else v for k, v in node.items()}
    if isinstance(node.get("models"), list):
        models = node["models"]
        node["models"] = [{"model": m} if isinstance(m, str) else m for m in models]
    return node


def _validated(document: Document) -> Request:
    try:
        config = Config.model_validate(document.data)
    except ValidationError as e:
        raise _worded(document, e) from e
    top = Level((), config.parameters)
    sections: list[Section] = []
    if config.modules is None:
        sections += _sections(document, config, config, (), (top,), None)
    else:
        for name, module in config.modules.items():
            steps = ("modules", name)
            levels = (Level(steps, module.parameters), top)
            sections += _sections(document, config, module, steps, levels, name)
    named = _named(document, config, sections)
    return Request(config, document, tuple(sections), named)


def _named(
    document: Document, config: Config, sections: list[Section]
) -> dict[str, Located]:
    """The models that are named outside the sections, as the sections have them."""
    places: dict[str, Steps] = {}
    if config.base_model is not None:
        places[config.base_model] = ("base_model",)
    options = config.tokenizer_options or TokenizerOptions()
    if options.source not in ("union", "base"):
        old = config.tokenizer_source is not None
        asked: Steps = ("tokenizer_source",) if old else ("tokenizer", "source")
        places.setdefault(options.source, asked)
    for token, entry in options.tokens.items():
        if entry.source is not None and entry.source.model is not None:
            steps = ("tokenizer", "tokens", token, "source")
            places.setdefault(entry.source.model, steps)
    merged = [each.model for section in sections for each in section.ingredients]
    named = {name: _located(document, at, name) for name, at in places.items()}
    return {
        name: next((each for each in merged if each.is_same(model)), model)
        for name, model in named.items()
    }


def _sections(
    document: Document,
    config: Config,
    part: Config | Module,
    steps: Steps,
    levels: tuple[Level, ...],
    module: str | None,
) -> list[Section]:
    if part.slices is not None:
        return [
            _slice(document, config, each, (*steps, "slices", i), levels, module)
            for i, each in enumerate(part.slices)
        ]
    if part.models is None:
        wanted = "'models' or 'slices'" if module else "'models', 'slices' or 'modules'"
        raise document.error(steps, f"{wanted} is missing: what to merge.")
    listed = [
        _ingredient(document, (*steps, "models", i), each)
        for i, each in enumerate(part.models)
    ]
    listed, base = _with_base(document, config.base_model, ("base_model",), listed)
    return [Section(tuple(listed), base, levels, module, steps)]


def _slice(
    document: Document,
    config: Config,
    each: Slice,
    steps: Steps,
    levels: tuple[Level, ...],
    module: str | None,
) -> Section:
    """A slice; mergekit adds no base to it that is not among its sources."""
    listed = [
        _ingredient(document, (*steps, "sources", j), source)
        for j, source in enumerate(each.sources)
    ]
    lengths = {i.layers and len(i.layers) for i in listed}
    if len(lengths) > 1:
        raise document.error(steps, "the sources of a slice differ in their lengths.")
    own_base = each.base_model is not None
    base_steps = (*steps, "base_model") if own_base else ("base_model",)
    reference = each.base_model if own_base else config.base_model
    with_base, base = _with_base(document, reference, base_steps, listed)
    if len(with_base) > len(listed):
        with_base, base = listed, None
    levels = (Level(steps, each.parameters), *levels)
    return Section(tuple(with_base), base, levels, module, steps)


def _with_base(
    document: Document,
    reference: str | None,
    steps: Steps,
    listed: list[Ingredient],
) -> tuple[list[Ingredient], int | None]:
    """The models with the base among them, last if it was not; and its place."""
    if reference is None:
        return listed, None
    model = _located(document, steps, reference)
    for i, each in enumerate(listed):
        if each.model.is_same(model):
            return listed, i
    base = Ingredient(reference, model, None, Level(steps, {}))
    return [*listed, base], len(listed)


def _ingredient(document: Document, steps: Steps, each: Model | Source) -> Ingredient:
    model = _located(document, (*steps, "model"), each.model)
    layers = getattr(each, "layer_range", None)
    own = Level(steps, each.parameters)
    return Ingredient(each.model, model, layers and range(*layers), own)


def _worded(document: Document, errors: ValidationError) -> ConfigError:
    """The problems in our words, a misspelt key before what is missing for it."""
    found = sorted(errors.errors(), key=lambda e: e["type"] != "extra_forbidden")
    worded = {str(e): e for e in (_in_words(document, each) for each in found)}
    first, *others = worded.values()
    first.others = tuple(others)
    return first


def _in_words(document: Document, problem: ErrorDetails) -> ConfigError:
    path, where = problem["loc"], ".".join(map(str, problem["loc"]))
    if "parameters" in path[:-1] and path[0] != "tokenizer":
        return _of_setting(document, path[: path.index("parameters") + 2])
    if problem["type"] == "extra_forbidden":
        known = _schema(path[:-1]).model_fields
        hint = nearest(str(path[-1]), known)
        return document.error(path, f"unknown key {where!r}; {hint}.")
    if problem["type"] == "missing":
        return document.error(path[:-1], f"{where!r} is missing.")
    if problem["type"] == "config":
        below = problem["ctx"]["below"]
        return document.error((*path, *below), f"{problem['msg']}.")
    got = "" if problem["type"] == "too_short" else f", got {problem['input']!r}"
    return document.error(path, f"{where!r}: {problem['msg']}{got}.")


def _of_setting(document: Document, steps: Steps) -> ConfigError:
    """What is wrong with the value of a parameter."""
    setting, where = document.at(*steps), ".".join(map(str, steps))
    places: dict[Steps, Any] = {steps: setting}
    if isinstance(setting, list):
        places = {(*steps, i): each for i, each in enumerate(setting)}
    known = Conditional.model_fields
    for place, each in places.items():
        for key in each.keys() - known if isinstance(each, dict) else ():
            problem = f"{where!r}: unknown key {key!r}; {nearest(key, known)}."
            return document.error((*place, key), problem)
    expected = (
        "expected a number or a boolean, a list of numbers (over the layers) or a list"
        " of {filter, value}"
    )
    return document.error(
        steps, f"{where!r}: got {_shown(document, steps)}; {expected}."
    )


def _schema(path: Steps) -> type[BaseModel]:
    """What is expected at a place of the document."""
    names = [step for step in path if isinstance(step, str)]
    if names[:1] == ["tokenizer"]:  # .tokens.<token>.source
        return (TokenizerOptions, TokenizerOptions, Token, Row)[len(names) - 1]
    if names[-1:] == ["sources"]:
        return Source
    if names[-1:] == ["slices"]:
        return Slice
    if names[-1:] == ["models"]:
        return Model
    return Module if names[:1] == ["modules"] else Config


def _shown(document: Document, steps: Steps) -> str:
    text = repr(document.at(*steps))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _located(document: Document, path: Steps, reference: str) -> Located:
    """Where a model is; an error has the line that names it."""
    try:
        return locate(reference)
    except ConfigError as e:
        raise document.error(path, str(e)) from e
