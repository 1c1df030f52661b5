"""What a leaf is and how it is laid out, judged from its name, shape and siblings."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from mda_jax import _check
from mda_jax._types import Role
from mda_jax.trees.layout import Axes, Layout
from mda_jax.trees.names import parts
from mda_jax.trees.stacks import NORM, bias_of, stacks


STATISTICS = {"running_mean", "running_var", "mean", "var"}
VECTOR = re.compile(
    r"(.*_)?(bias|beta|gamma|scale|cls|tokens?|latents|probe)|b|class_embedding"
)
POSITION = re.compile(
    r"(abs(olute)?_)?pos(ition(al)?)?_?(embed(ding)?s?|emb)|embed_positions|positions?"
    r"|wpe"
)
TABLE = re.compile(
    r"embed_tokens\w*|tok(en)?(_type)?_embed(ding|der)?s?|word_embeddings?|wte|shared"
    r"|embed(_in)?|rel(ative)?_(pos\w*|attention_bias)|\w*relative_position_bias_table"
)
HEAD = re.compile(r"(.*/)?(lm_head|embed_out|(predictions|lm_head|mlm)/decoder)")
TO_HEADS = {"query", "key", "value", "qkv", "kv", "q", "k", "v"}
TO_HEADS |= {f"{name}_proj" for name in ("q", "k", "v", "qkv", "kv")}
FROM_HEADS = {"out", "o", "o_proj", "out_proj", "attn_out"}
CONV1D = {"c_attn", "c_proj", "c_fc", "q_attn"}
INTO_FIRST = {"kernel", "w", "proj", "text_projection"}


class _Leaf(NamedTuple):
    """A leaf without its stack axes."""

    name: str
    module: tuple[str, ...]
    last: str
    shape: tuple[int, ...]
    bias: tuple[int, ...] | None
    into_first: bool | None  # what other leaves say of its orientation

    @property
    def parent(self) -> str:
        return self.module[-1] if self.module else ""


def inferred(leaves: Mapping[str, Any]) -> dict[str, Layout]:
    """The layout of every leaf, from the conventions of PyTorch and Flax.

    Args:
      leaves: `{name: array or ShapeDtypeStruct}` of the whole model: siblings decide
        where a name alone does not.
    """
    stacked = stacks(leaves)
    bare = {n: leaves[n].shape[len(axes) :] for n, axes in stacked.items()}
    oriented = _oriented(bare)
    plan = {}
    for name, leaf in leaves.items():
        if _check.is_merged(leaf):
            found = _judged(_leaf(name, bare, oriented))
            plan[name] = _stacked(found, stacked[name])
        else:
            plan[name] = Layout(Role.BUFFER, out=tuple(range(len(leaf.shape))))
    return plan


def _leaf(name: str, bare: Mapping[str, tuple], oriented: Mapping[str, bool]) -> _Leaf:
    *module, last = parts(name)
    bias, into_first = bare.get(bias_of(name)), oriented.get(name)
    return _Leaf(name, tuple(module), last, bare[name], bias, into_first)


def _stacked(layout: Layout, stack: Axes) -> Layout:
    out, into = (tuple(a + len(stack) for a in g) for g in (layout.out, layout.into))
    return Layout(layout.role, stack, out, into)


def _judged(leaf: _Leaf) -> Layout:
    every = tuple(range(len(leaf.shape)))
    if leaf.last in STATISTICS:
        return Layout(Role.BUFFER, out=every)
    if len(every) < 2:
        return Layout(Role.VECTOR if every else Role.SCALAR, out=every)
    if POSITION.fullmatch(leaf.last) or POSITION.fullmatch(leaf.parent):
        return Layout(Role.POSITION, out=every[:-1], into=every[-1:])
    if _is_vector(leaf):
        return Layout(Role.VECTOR, out=every)
    return _table(leaf) or _linear(leaf) or _convolution(leaf)


def _is_vector(leaf: _Leaf) -> bool:
    wide = sum(length > 1 for length in leaf.shape)
    if leaf.last in ("weight", "kernel", "w", "embedding"):
        flat = len(leaf.shape) > 2 and wide < 2
        return flat or bool(NORM.fullmatch(leaf.parent.lower()))
    raw = len(leaf.shape) > 2 or wide < 2
    return raw or bool(VECTOR.fullmatch(leaf.last))


def _table(leaf: _Leaf) -> Layout | None:
    if len(leaf.shape) != 2:
        return None
    if HEAD.fullmatch("/".join(leaf.module)):
        return _matrix(leaf, Role.EMBEDDING)
    owner = leaf.parent if leaf.last == "weight" else leaf.last
    if leaf.last == "embedding" or TABLE.fullmatch(owner):
        return Layout(Role.EMBEDDING, out=(0,), into=(1,))
    return None


def _linear(leaf: _Leaf) -> Layout | None:
    """A linear map, its output or input possibly split into heads."""
    if len(leaf.shape) == 2:
        return _matrix(leaf, Role.MATRIX)
    if leaf.last not in INTO_FIRST:
        return None
    *first, last = range(len(leaf.shape))
    if leaf.bias == leaf.shape[1:] or leaf.parent in TO_HEADS:
        return Layout(Role.MATRIX, out=(*first[1:], last), into=(0,))
    if leaf.parent in FROM_HEADS and len(leaf.shape) == 3:
        return Layout(Role.MATRIX, out=(last,), into=tuple(first))
    return None


def _matrix(leaf: _Leaf, role: Role) -> Layout:
    """`[out, in]` or `[in, out]`: by the bias, by other leaves, else by the name."""
    into_first = leaf.last in INTO_FIRST
    if leaf.into_first is not None:
        into_first = leaf.into_first
    if len(set(leaf.shape)) == 2 and leaf.bias in (leaf.shape[:1], leaf.shape[1:]):
        into_first = leaf.bias == leaf.shape[1:]
    return Layout(role, out=(int(into_first),), into=(int(not into_first),))


def _oriented(bare: Mapping[str, tuple]) -> dict[str, bool]:
    """Matrices that are `[in, out]` (True) or not, as other leaves give away.

    GPT-2's `Conv1D` keeps `[in, out]` in PyTorch but `[out, in]` in HF-Flax, and other
    models call linear layers `c_proj` and `c_fc` too: its fused `c_attn`, never square,
    decides. Stacked experts are `[in, out]` in Llama 4 and GPT-OSS, else `[out, in]`:
    what `gate_up_proj` takes in is what `down_proj` gives out.
    """
    found = {}
    fused = [bare[n] for n in bare if parts(n)[-2:-1] == ("c_attn",)]
    fused = [shape for shape in fused if len(shape) == 2]
    for name, shape in bare.items():
        if fused and CONV1D.intersection(parts(name)[-2:-1]):
            found[name] = fused[0][0] < fused[0][1]
        down = re.sub("gate_up_proj$", "down_proj", name)
        if len(shape) == 2 and down != name and down in bare:
            found[name] = shape[1] != bare[down][0] and shape[0] == bare[down][1]
            found[down] = found[name]
    return found


def _convolution(leaf: _Leaf) -> Layout:
    """PyTorch's `[out, in, *window]`, or Flax's `[*window, in, out]`."""
    first, second, *rest = range(len(leaf.shape))
    if leaf.last in INTO_FIRST:
        *window, into, out = range(len(leaf.shape))
        return Layout(Role.CONV, out=(out,), into=(into, *window))
    transposed = leaf.bias == leaf.shape[1:2] != leaf.shape[:1]
    out, into = (second, first) if transposed else (first, second)
    return Layout(Role.CONV, out=(out,), into=(into, *rest))
