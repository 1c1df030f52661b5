"""The notes beside a converted checkpoint: what it was before. They are not trusted."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from mda_jax.converters.formats import FormatError


_BYTES = r"^[\x00-\xff]*$"  # a character for each


class _Note(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


def _plain(name: str) -> str:
    """The name of a file, which leads to no other folder."""
    if name in ("", "..") or "\0" in name or Path(name).name != name:
        raise ValueError("a file's name has no folders")
    return name


class _Naming(_Note):
    family: str
    dialect: str
    wrapper: str
    prefix: str
    ties: dict[str, Annotated[list[str], Field(min_length=1)]]


class _Outline(_Note):
    size: NonNegativeInt
    kept: list[tuple[NonNegativeInt, Annotated[str, Field(pattern=_BYTES)]]]


class _File(_Note):
    outline: _Outline
    specs: dict[str, tuple[str, list[NonNegativeInt]]]


class _Index(_Note):
    text: str


class _Source(_Note):
    naming: _Naming
    sizes: dict[str, PositiveInt]
    outlines: dict[Annotated[str, AfterValidator(_plain)], _File | _Index]


class _Notes(_Note):
    version: Literal[1]
    naming: _Naming
    source: _Source


def read_notes(path: Path) -> dict[str, Any]:
    """The notes on a conversion, checked in all that does not need the tensors.

    Args:
      path: where they may be.

    Returns:
      Their content; nothing if there are none.

    Raises:
      FormatError: they are damaged; or name a file outside of a checkpoint's folder.
    """
    if not path.is_file():
        return {}
    try:
        content = _Notes.model_validate_json(path.read_bytes()).model_dump()
    except ValidationError as e:
        first = e.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        found = ascii(first["input"])[:80]
        problem = f"{found} at {ascii(where)[:80]} ({ascii(first['msg'])[:120]})"
        advice = "Convert the checkpoint again."
        raise FormatError(path, problem, "the notes on a conversion", advice) from e
    for file in content["source"]["outlines"].values():
        if "specs" in file:
            file["specs"] = {n: list(spec) for n, spec in file["specs"].items()}
    return content
