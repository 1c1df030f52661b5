"""A checkpoint: tensors, how they are named, and what it takes to write it again."""

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from mda_jax.converters.companions import NOTES, STASH
from mda_jax.converters.errors import ConversionError
from mda_jax.converters.formats import FormatError, open_tensors
from mda_jax.converters.naming import (
    Naming,
    dialect_of,
    family_of,
    named,
    noted,
    recognise,
)
from mda_jax.converters.notes import read_notes
from mda_jax.converters.rules import Rule, Table
from mda_jax.converters.transforms import Shape
from mda_jax.converters.translate import (
    Arrays,
    Joined,
    Named,
    Translated,
    flat,
    nested,
)


OPEN_CLIP = "open_clip_config.json"  # of OpenCLIP, which has no config.json


class Source(NamedTuple):
    """What a checkpoint was before it was converted.

    Attributes:
      naming: of its tensors.
      sizes: numbers of the model that its layout has and other layouts lack.
      stash: tensors without a counterpart in Flax, by their stored names.
      files: where it lies, if it was just read.
      outlines: of its files by name, if it was read long ago.
    """

    naming: Naming
    sizes: Mapping[str, int] = {}
    stash: Named = Arrays({})
    files: Sequence[Path] = ()
    outlines: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Checkpoint:
    """Tensors of a known family of models, read when they are used.

    Attributes:
      tensors: name -> array, with `.spec(name)`.
      naming: family, dialect, prefix and ties of the tensors as they are here.
      source: what it was before it was converted; itself, if it was not.
      config: content of `config.json`; empty if there is none.
      path: the folder it came from.
    """

    tensors: Named
    naming: Naming
    source: Source
    config: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @property
    def family(self) -> str:
        """Of the model: `bert`, `llama` and so on."""
        return self.naming.family

    @property
    def dialect(self) -> str:
        """Of the names and layouts: `hub`, `timm`, `nnx` and so on."""
        return self.naming.dialect

    @property
    def ties(self) -> Mapping[str, str]:
        """Name of a tensor that is another one again -> the name of that."""
        stored = self.naming.ties.values()
        return {name: first for first, *others in stored for name in others}

    def tree(self) -> dict[str, Any]:
        """The tensors as nested dicts, split at slashes."""
        return nested({name: self.tensors[name] for name in self.tensors})


def load(path: str | Path) -> Checkpoint:
    """Open a checkpoint of PyTorch or Flax; reads headers and the config only.

    Args:
      path: what `open_tensors` opens.

    Returns:
      The checkpoint, its family and dialect recognised from its tensors.

    Raises:
      FormatError: there is no checkpoint, or it is damaged.
      ConversionError: the tensors are those of no family; the message names one.
    """
    path = Path(path)
    folder = path if path.is_dir() else path.parent
    tensors = open_tensors(path)
    config = read_json(folder / "config.json") or read_json(folder / OPEN_CLIP)
    notes = read_notes(folder / NOTES)
    if notes:
        naming, source = noted(notes["naming"]), _source(folder, notes["source"])
    else:
        naming = recognise(tensors, config)
        source = Source(naming, stash=_buffers(tensors, naming), files=tensors.files)
    return Checkpoint(tensors, naming, source, config, folder)


def in_dialect(checkpoint: Checkpoint, dialect: str) -> Checkpoint:
    """The same model as another library or layout names it, lazily.

    Args:
      checkpoint: of any dialect.
      dialect: of the same family. In that of its source it has the source's prefix,
        ties and buffers again.

    Returns:
      The checkpoint; its tensors are made when they are used.

    Raises:
      ConversionError: no such dialect; or the tensors do not fit the rules, or the
        model that the config describes.
    """
    ours, source = leaves(checkpoint), checkpoint.source
    source = source._replace(sizes={**source.sizes, **ours.sizes})
    back = dialect == source.naming.dialect
    naming = source.naming if back else _fresh(checkpoint, dialect)
    rules = _rules(naming, source.sizes, checkpoint.config)
    outer = Translated(ours, [rule.flipped() for rule in rules])
    names = {
        naming.wrapper + stored: name
        for name in outer
        for stored in naming.ties.get(name, [name])
    }
    stash = {name: name for name in source.stash} if back else {}
    tensors = Joined([(outer, names), (source.stash, stash)])
    return replace(checkpoint, tensors=tensors, naming=naming, source=source)


def leaves(checkpoint: Checkpoint) -> Translated:
    """Our own leaves of a checkpoint, lazily.

    Raises:
      ConversionError: as `in_dialect`.
    """
    naming = checkpoint.naming
    known = {s: name for name, stored in naming.ties.items() for s in stored}
    names: dict[str, str] = {}
    for name in checkpoint.tensors:
        plain = name.removeprefix(naming.wrapper)
        names.setdefault(known.get(plain, plain), name)
    rules = _rules(naming, checkpoint.source.sizes, checkpoint.config)
    ours = Translated(Joined([(checkpoint.tensors, names)]), rules)
    _compare_with_model(ours, checkpoint)
    return ours


def to_flax(checkpoint: Checkpoint, dialect: str = "nnx") -> dict[str, Any]:
    """The parameters of a checkpoint as a tree for Flax.

    Args:
      checkpoint: of any dialect.
      dialect: `nnx`, for our own models; `scanned` or `head_split`, for the same in
        another layout; `hf_flax` and so on, where the family has it.

    Returns:
      Nested dicts of arrays; most are views of the file, read when they are used.

    Raises:
      ConversionError: the tensors do not fit the rules, or the model that the config
        describes.
    """
    return in_dialect(checkpoint, dialect).tree()


def to_torch(
    model: Checkpoint | Mapping[Any, Any],
    like: Checkpoint | None = None,
    *,
    dialect: str | None = None,
    layout: str = "nnx",
) -> Checkpoint:
    """A model of Flax as PyTorch has it.

    Args:
      model: a checkpoint, or a tree that `to_flax` gave, trained or merged since.
      like: the checkpoint that the tree came from; needed for a tree.
      dialect: of the result; that of the source unless stated, or the hub's if the
        source was one of Flax.
      layout: the dialect of the tree.

    Returns:
      The checkpoint; in the dialect of its source it has every buffer, tie and prefix
      that the source had, and `save` writes the very files again.

    Raises:
      ConversionError: leaves are missing, unknown or of another shape.
      TypeError: a tree without `like`.
    """
    if not isinstance(model, Checkpoint):
        if like is None:
            raise TypeError(
                "to_torch: a tree needs `like`, the checkpoint it came from."
            )
        model = with_tree(like, model, layout)
    if dialect is None:
        of_torch = [d.name for d in family_of(model.family).stored if d.is_torch]
        old = model.source.naming.dialect
        dialect = old if old in of_torch else of_torch[0]
    return in_dialect(model, dialect)


def with_tree(
    like: Checkpoint, tree: Mapping[Any, Any], dialect: str = "nnx"
) -> Checkpoint:
    """A checkpoint with the arrays of a tree in the place of its own.

    Args:
      like: where the tree came from.
      tree: nested or flat dicts of arrays.
      dialect: of the tree.
    """
    sizes = {**like.source.sizes, **leaves(like).sizes}
    tensors = Arrays(flat(tree))
    return replace(
        like,
        tensors=tensors,
        naming=named(like.family, dialect, tensors),
        source=like.source._replace(sizes=sizes),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The content of a JSON file of keys; nothing if there is no such file.

    Raises:
      FormatError: it is damaged, or holds something else.
    """
    if not path.is_file():
        return {}
    advice = "Copy the file again."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as e:
        found = f"no valid JSON ({ascii(str(e))[:80]})"
        raise FormatError(path, found, "a JSON object", advice) from e
    if not isinstance(content, dict):
        raise FormatError(path, ascii(content)[:80], "a JSON object", advice)
    return content


def model_of(family: str) -> ModuleType:
    """The module of a family's reference model; importing it needs Flax."""
    return import_module(f"mda_jax.converters.models.{family}")


def _source(folder: Path, notes: Mapping[str, Any]) -> Source:
    """What a Flax checkpoint was, from what was written beside it."""
    stash = folder / STASH
    return Source(
        noted(notes["naming"]),
        notes["sizes"],
        open_tensors(stash) if stash.is_file() else Arrays({}),
        outlines=notes["outlines"],
    )


def _buffers(tensors: Named, naming: Naming) -> Named:
    """The tensors that have no counterpart in Flax."""
    table = Table(naming.rules({}))
    names = (n for n in tensors if table.is_left(n.removeprefix(naming.wrapper)))
    return Joined([(tensors, {name: name for name in names})])


def _fresh(checkpoint: Checkpoint, dialect: str) -> Naming:
    """The naming of a checkpoint that was never stored in a dialect."""
    prefixes = dialect_of(checkpoint.family, dialect).prefixes
    kind = f"{checkpoint.config.get('model_type')}."
    classes = checkpoint.config.get("architectures") or [""]
    prefix = kind if kind in prefixes else prefixes[0]
    bare = classes[0].endswith("Model") and "Head" not in classes[0]
    if bare and "" in prefixes:
        prefix = ""
    return Naming(checkpoint.family, dialect, prefix=prefix)


def _rules(
    naming: Naming, sizes: Mapping[str, int], config: Mapping[str, Any]
) -> list[Rule]:
    """The rules of a naming; sizes that nobody learnt are those of the config."""
    rules = naming.rules(sizes)
    if config and any(rule.transform.unknown for rule in rules):
        rules = naming.rules({**model_of(naming.family).sizes(config), **sizes})
    return rules


def _compare_with_model(ours: Translated, checkpoint: Checkpoint) -> None:
    """Check names and shapes against the model that the config describes."""
    if not checkpoint.config:
        return
    got = {name: ours.spec(name).shape for name in ours}
    try:
        expected = shapes(checkpoint.family, checkpoint.config, got)
    except ConversionError as e:
        warnings.warn(f"not compared with a model: {e}", stacklevel=2)
        return
    for name in sorted(got.keys() | expected.keys()):
        if got.get(name) != expected.get(name):
            found = f"has shape {got[name]}" if name in got else "is missing"
            wanted = f"has it as {expected[name]}" if name in expected else "lacks it"
            raise ConversionError(
                f"{checkpoint.path}: {name!r} {found}, but the model that config.json"
                f" describes {wanted}."
            )


def shapes(
    family: str, config: Mapping[str, Any], leaves: Mapping[str, Shape]
) -> dict[str, Shape]:
    """Names and shapes of what a model holds; nothing is computed.

    Args:
      family: of the model.
      config: content of its `config.json`.
      leaves: shapes of a checkpoint; they decide which heads the model has.

    Raises:
      ConversionError: a field of the config is not understood.
    """
    return _shapes(family, json.dumps(config), tuple(sorted(leaves.items())))


@lru_cache(maxsize=32)
def _shapes(
    family: str, config: str, leaves: tuple[tuple[str, Shape], ...]
) -> dict[str, Shape]:
    from flax import nnx

    build = model_of(family).build
    model = nnx.eval_shape(lambda: build(json.loads(config), dict(leaves), nnx.Rngs(0)))
    state = nnx.to_pure_dict(nnx.state(model, nnx.Any(nnx.Param, nnx.BatchStat)))
    return {name: tuple(array.shape) for name, array in flat(state).items()}


def build(checkpoint: Checkpoint) -> Any:
    """The Flax NNX model of a checkpoint, with its weights.

    Args:
      checkpoint: of any dialect, with a `config.json`.

    Returns:
      An `nnx.Module`: call it, or split it into a graph and parameters.

    Raises:
      ConversionError: a field of the config is not understood, or the tensors do not
        fit the model.
    """
    import jax.numpy as jnp
    from flax import nnx

    ours = leaves(checkpoint)
    got = {name: ours.spec(name).shape for name in ours}
    model = nnx.eval_shape(
        lambda: model_of(checkpoint.family).build(checkpoint.config, got, nnx.Rngs(0))
    )
    state = nnx.state(model)
    arrays = {name: jnp.array(ours[name]) for name in ours}
    tree = nnx.restore_int_paths(nested(arrays))
    nnx.replace_by_pure_dict(state, tree)
    nnx.update(model, state)
    return model
