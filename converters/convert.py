"""A checkpoint in other dialects: as a tree for Flax, for PyTorch, as a model."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mda_jax.converters.checkpoint import Checkpoint
from mda_jax.converters.naming import Naming, dialect_of, family_of, named
from mda_jax.converters.reference import check_leaves, model_of
from mda_jax.converters.rules import Rule, Table
from mda_jax.converters.translate import Arrays, Joined, Translated, flat, nested


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
    got = {name: ours.spec(name).shape for name in ours}

    def stored(leaf: str) -> list[str]:
        outside = Table(rules).flipped().counterparts(leaf)
        return [naming.wrapper + name for name in outside]

    check_leaves(checkpoint.family, checkpoint.config, got, checkpoint.path, stored)
    return ours


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
