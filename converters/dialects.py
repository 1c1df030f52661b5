"""Dialects: how one library or file format names and lays out a model.

A dialect lists the modules of a model, each with its name outside and inside. What
tensors a kind of module has, and how they lie, is the same for all of PyTorch, or all
of Flax Linen, and stands in a flavour.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import NamedTuple, Protocol, runtime_checkable

from mda_jax.converters.rules import Rule, expanded
from mda_jax.converters.transforms import (
    SAME,
    STACK,
    UNSTACK,
    Size,
    Split,
    Transform,
    fold,
    permute,
    split,
)


class Leaf(NamedTuple):
    """A tensor of a kind of module; `*` stands for the module's name."""

    outer: str
    inner: str | None  # None: it has no Flax home, and is carried along
    transform: Transform = SAME


Leaves = tuple[Leaf, ...]


class Flavour(NamedTuple):
    """The tensors of every kind of module, and what stands between names."""

    separator: str
    kinds: Mapping[str, Leaves]


class Part(NamedTuple):
    """A module; several inside where the outer one has them fused."""

    kind: str
    outer: str
    inner: tuple[str, ...]
    ratios: tuple[Size, ...] = ()


@runtime_checkable
class Kind(Protocol):
    """Makes a part of one kind."""

    def __call__(self, outer: str, *inner: str, ratios: tuple[Size, ...] = ()) -> Part:
        """The part; several inner names are fused in the outer one, in these ratios."""


def _kind(kind: str) -> Kind:
    def part(outer: str, *inner: str, ratios: tuple[Size, ...] = ()) -> Part:
        equal = (1,) * len(inner) if len(inner) > 1 else ()
        return Part(kind, outer, inner, ratios or equal)

    return part


linear = _kind("linear")  # kernel [in, out], bias
linear_io = _kind("linear_io")  # the same; PyTorch holds it [in, out] (Conv1D)
in_proj = _kind("in_proj")  # the fused input of torch.nn.MultiheadAttention
experts = _kind("experts")  # dense layers on a first axis: [experts, in, out]
conv = _kind("conv")  # kernel [height, width, in, out], bias
embed = _kind("embed")  # a table [entries, width]
norm = _kind("norm")  # layer normalisation: scale, bias
rms_norm = _kind("rms_norm")  # root-mean-square normalisation: scale
batch_norm = _kind("batch_norm")  # scale, bias, mean, var
param = _kind("param")  # a tensor of its own, the same on both sides
matrix_io = _kind("matrix_io")  # a bare matrix [in, out], a dense layer inside


def buffer(outer: str) -> Part:
    """A tensor that is computed, not learnt: carried along, with no Flax home."""
    return Part("buffer", outer, ())


_T = permute(1, 0)
_OIHW = permute(2, 3, 1, 0)
_BIAS = Leaf("*.bias", "*/bias")

TORCH = Flavour(
    ".",
    {
        "linear": (Leaf("*.weight", "*/kernel", _T), _BIAS),
        "linear_io": (Leaf("*.weight", "*/kernel"), _BIAS),
        "in_proj": (
            Leaf("*.in_proj_weight", "*/kernel", _T),
            Leaf("*.in_proj_bias", "*/bias"),
        ),
        "experts": (Leaf("*", "*/kernel", permute(0, 2, 1)),),
        "conv": (Leaf("*.weight", "*/kernel", _OIHW), _BIAS),
        "embed": (Leaf("*.weight", "*/embedding"),),
        "norm": (Leaf("*.weight", "*/scale"), _BIAS),
        "rms_norm": (Leaf("*.weight", "*/scale"),),
        "batch_norm": (
            Leaf("*.weight", "*/scale"),
            _BIAS,
            Leaf("*.running_mean", "*/mean"),
            Leaf("*.running_var", "*/var"),
            Leaf("*.num_batches_tracked", None),
        ),
        "param": (Leaf("*", "*"),),
        "matrix_io": (Leaf("*", "*/kernel"),),
        "buffer": (Leaf("*", None),),
    },
)
OLD_NORMS = TORCH._replace(
    kinds={
        **TORCH.kinds,
        "norm": (Leaf("*.gamma", "*/scale"), Leaf("*.beta", "*/bias")),
    }
)

_KERNEL, _FLAX_BIAS = Leaf("*/kernel", "*/kernel"), Leaf("*/bias", "*/bias")
LINEN = Flavour(
    "/",
    {
        "linear": (_KERNEL, _FLAX_BIAS),
        "linear_io": (Leaf("*/kernel", "*/kernel", _T), _FLAX_BIAS),
        "conv": (_KERNEL, _FLAX_BIAS),
        "embed": (Leaf("*/embedding", "*/embedding"),),
        "norm": (Leaf("*/scale", "*/scale"), _FLAX_BIAS),
        "rms_norm": (Leaf("*/weight", "*/scale"),),
        "param": (Leaf("*", "*"),),
        "buffer": (),
    },
)


def with_collections(flavour: Flavour) -> Flavour:
    """The same in a tree that has `params` and `batch_stats` on top."""
    kinds = {
        kind: tuple(leaf._replace(outer=f"params/{leaf.outer}") for leaf in leaves)
        for kind, leaves in flavour.kinds.items()
    }
    stats = tuple(Leaf(f"batch_stats/*/{n}", f"*/{n}") for n in ("mean", "var"))
    return flavour._replace(kinds=kinds | {"batch_norm": kinds["norm"] + stats})


@dataclass(frozen=True)
class Dialect:
    """How the tensors of a family of models are named and laid out somewhere.

    Attributes:
      name: of the dialect.
      flavour: the tensors of each kind of module.
      backbone: modules whose names follow a prefix.
      heads: modules that stand beside the backbone.
      prefixes: that the backbone may have; the first is written.
      ties: tensors that are one by design: the name that is kept, then its aliases;
        `^` stands for the prefix.
    """

    name: str
    flavour: Flavour
    backbone: tuple[Part | Rule, ...]
    heads: tuple[Part | Rule, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    ties: tuple[tuple[str, ...], ...] = ()

    @property
    def is_torch(self) -> bool:
        """Whether PyTorch's modules are called so."""
        return self.flavour.separator == "."

    def rules(
        self, prefix: str = "", sizes: Mapping[str, int] | None = None
    ) -> Iterator[Rule]:
        """The rules that the modules and the flavour amount to.

        Args:
          prefix: of the backbone's names.
          sizes: numbers of the model that transforms name, as far as they are known.

        Yields:
          Rules, from the names of this dialect to ours.
        """
        for before, parts in ((prefix, self.backbone), ("", self.heads)):
            for part in parts:
                for rule in _rules(part, self.flavour, before):
                    yield rule._replace(transform=rule.transform.bind(sizes or {}))

    def tied(self, prefix: str) -> list[tuple[str, ...]]:
        """The names that are one tensor by design."""
        return [tuple(n.replace("^", prefix) for n in names) for names in self.ties]


def linen(dialect: Dialect, flavour: Flavour = LINEN) -> Dialect:
    """The dialect of the Flax Linen modules of transformers 4: PyTorch's own names."""
    return Dialect(
        "hf_flax",
        flavour,
        tuple(_with_slashes(part) for part in dialect.backbone),
        tuple(_with_slashes(part) for part in dialect.heads),
        tuple(prefix.replace(".", "/") for prefix in dialect.prefixes),
    )


@dataclass(frozen=True)
class Family:
    """Models that have the same leaves.

    Attributes:
      name: of the file of its dialects, and of that of its model.
      model_types: that `config.json` may state.
      stored: the dialects of checkpoints; the first is what exports are written in.
    """

    name: str
    model_types: tuple[str, ...]
    stored: tuple[Dialect, ...]

    @cached_property
    def dialects(self) -> tuple[Dialect, ...]:
        """All, with the layouts of our own leaves."""
        hub = self.stored[0]
        ours = nnx(hub), scanned(hub), head_split(hub)
        together = (fused(each) for each in self.stored if _fused_rules(each))
        return *self.stored, *ours, *islice(together, 1)


def nnx(dialect: Dialect) -> Dialect:
    """Our own leaves, those of the Flax NNX models."""
    return Dialect("nnx", LINEN, tuple(Rule((t,), (t,)) for t in _leaves(dialect)))


def scanned(dialect: Dialect) -> Dialect:
    """Our own leaves with the layers of each stack on a first axis, as for a scan."""
    return Dialect("scanned", LINEN, tuple(map(_scanned, _leaves(dialect))))


def head_split(dialect: Dialect) -> Dialect:
    """Our own leaves with an axis of heads, as `nnx.MultiHeadAttention` has them."""
    return Dialect("head_split", LINEN, tuple(map(_head_split, _leaves(dialect))))


def fused(dialect: Dialect) -> Dialect:
    """Our own leaves, but those together that a dialect of PyTorch has together.

    What merges matrices by their singular values gives other results for three
    projections than for one matrix of the three.
    """
    together = _fused_rules(dialect)
    apart = set(_leaves(dialect)).difference(*(rule.inner for rule in together))
    alone = tuple(Rule((leaf,), (leaf,)) for leaf in sorted(apart))
    return Dialect("fused", LINEN, together + alone)


def _fused_rules(dialect: Dialect) -> tuple[Rule, ...]:
    """Rules for the leaves that a dialect has together, under their names joined."""
    rules = (each for rule in dialect.rules() for each in expanded(rule))
    return tuple(
        Rule((_joined(rule.inner),), rule.inner, Transform((op,)))
        for rule in rules
        for op in rule.transform.ops
        if isinstance(op, Split)
    )


def _joined(leaves: tuple[str, ...]) -> str:
    """One name for several.

    >>> _joined(("mlp/gate/kernel", "mlp/up/kernel"))
    'mlp/gate_up/kernel'
    """
    *before, _, last = leaves[0].split("/")
    return "/".join([*before, "_".join(leaf.split("/")[-2] for leaf in leaves), last])


def _leaves(dialect: Dialect) -> list[str]:
    rules = (each for rule in dialect.rules() for each in expanded(rule))
    return list(dict.fromkeys(template for rule in rules for template in rule.inner))


def _scanned(leaf: str) -> Rule:
    stacked = leaf.replace("/{i}/", "/")
    if stacked == leaf:
        return Rule((leaf,), (leaf,))
    return Rule((stacked,), (leaf.replace("{i}", "{i*}"),), UNSTACK)


_OF_HEADS = re.compile(
    r"(?:(?P<tower>vision|text)/.*)?attention/(?P<end>query|key|value|out)/(kernel|bias)$"
)


def _head_split(leaf: str) -> Rule:
    found = _OF_HEADS.search(leaf)
    if not found or leaf.endswith("out/bias"):
        return Rule((leaf,), (leaf,))
    tower = f"{found['tower']}_" if found["tower"] else ""
    few = "kv_" if found["end"] in ("key", "value") else ""
    axis = int(leaf.endswith("kernel") and found["end"] != "out")
    return Rule((leaf,), (leaf,), fold(axis, f"{tower}{few}heads", -1))


def _rules(part: Part | Rule, flavour: Flavour, before: str) -> Iterator[Rule]:
    if isinstance(part, Rule):
        yield part._replace(outer=tuple(before + name for name in part.outer))
        return
    for leaf in flavour.kinds[part.kind]:
        outer = leaf.outer.replace("*", before + part.outer)
        named = leaf.inner
        if named is None:
            yield Rule((outer,), ())
            continue
        inner = tuple(named.replace("*", module) for module in part.inner)
        cut = split(*part.ratios) if part.ratios else SAME
        stacked = STACK if "*}" in outer else SAME
        layers = UNSTACK if any("*}" in name for name in inner) else SAME
        yield Rule((outer,), inner, layers | leaf.transform | cut | stacked)


def _with_slashes(part: Part | Rule) -> Part | Rule:
    if isinstance(part, Rule):
        return part._replace(outer=tuple(t.replace(".", "/") for t in part.outer))
    return part._replace(outer=part.outer.replace(".", "/"))
