"""The merged tensors of a model, one after the other, in bounded memory.

Where a method treats every entry by itself, tensors are cut and joined into flat runs
of one length: one compilation serves them all, and the largest table needs no more
memory than a run. Where it treats every row by itself, once it has surveyed all rows of
a tensor, large tensors are cut into pieces of rows, and read once more for each survey.
Other tensors go to the engine whole, bucket by bucket. The lengths of runs and pieces
depend on the number of experts alone, so the result does not depend on the machine.
"""

import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import cycle
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from mda_jax import engine, trees
from mda_jax._types import Role, Stage, WholeModel
from mda_jax.combine import by_rows
from mda_jax.pipeline.recipe import Step
from mda_jax.pipeline.sources import Piece, Sources
from mda_jax.pipeline.trim import Cut, Trim


BUDGET = 8 << 20  # bytes of float32 copies that one call of the engine works on

WAITING = 4  # chunks that may wait to be written

_ALIGNMENT = 64  # bytes

Run = list[Piece]
_Plan = dict[str, trees.Layout]
Chunk = tuple[Piece, np.ndarray]  # some entries of a tensor, [n]
_Item = TypeVar("_Item")
_FLAT = trees.Layout(Role.VECTOR, out=(0,))


def merged(
    sources: Sources,
    steps: Mapping[str, Step],
    elementwise: Container[Role],
    plan: Mapping[str, trees.Layout],
    key: jax.Array,
    wanted: Container[str],
) -> Iterator[Chunk]:
    """Merge some tensors: each comes out the same, whichever others are wanted.

    Args:
      sources: the models.
      steps: what happens to every tensor that is merged at some time.
      elementwise: the roles whose tensors are merged entry by entry.
      plan: the layout of every tensor that is merged.
      key: for methods that draw random numbers.
      wanted: the tensors to merge now.

    Yields:
      The merged entries, those of each tensor in order, in the types of
      `sources.dtypes`.
    """
    entries = entries_of(sources)
    for step, runs, large, whole in _groups(sources, steps, elementwise, plan):
        for names in runs:
            now = list(filter(wanted.__contains__, names))
            yield from _in_runs(sources, step, now, entries)
        for name in filter(wanted.__contains__, large):
            yield from _by_rows(sources, large[name], name, plan[name], key, entries)
        yield from _in_buckets(sources, step, whole, key, entries, wanted)


class Where(NamedTuple):
    """What merges tensors: one device, or several."""

    read: Callable[[Sources, str], tuple[Any, Any]]  # see `Sources.read`
    merged: Callable[..., Iterator[Chunk]]  # see `merged`


ONE_DEVICE = Where(Sources.read, merged)


class Call(NamedTuple):
    """The largest thing that the engine is given of some tensors alike."""

    tensor: str
    method: Stage | WholeModel
    base: jax.ShapeDtypeStruct
    experts: Any  # one each, or one array `[k, ...]` of all
    layout: trees.Layout
    batch: int
    times: int


def calls(
    sources: Sources,
    steps: Mapping[str, Step],
    elementwise: Container[Role],
    plan: Mapping[str, trees.Layout],
) -> Iterator[Call]:
    """What `merged` works on at once, given the same."""
    entries = entries_of(sources)
    for step, runs, large, whole in _groups(sources, steps, elementwise, plan):
        for names in runs:
            size = sum(sources.leaf(n).size for n in names)
            length = _length(size, entries)
            pair = _together(sources, names, (length,), step.trim)
            yield Call(names[0], step.method, *pair, _FLAT, 1, -(-size // length))
        for name, method in large.items():
            total, *rest = sources.leaf(name).shape
            rows = _rows((total, *rest), entries)[0]
            pair = _together(sources, [name], (rows, *rest))
            yield Call(name, method, *pair, plan[name], 1, -(-total // rows))
        for bucket in trees.buckets({n: sources.leaf(n) for n in whole}, whole):
            name, batch = bucket.names[0], batch_of(bucket, entries)
            batch = min(len(bucket.names), batch)
            leaf, types = sources.leaf(name), sources.types(name)
            experts = tuple(jax.ShapeDtypeStruct(leaf.shape, t) for t in types)
            times = -(-len(bucket.names) // batch)
            yield Call(name, step.method, leaf, experts, whole[name], batch, times)


def _together(
    sources: Sources, names: list[str], shape: tuple[int, ...], trim: Trim | None = None
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Entries of the base, and those of the experts in one array that loses nothing.

    Its type is the one that the experts share, or else float32.
    """
    dtype = sources.dtypes[names[0]]
    types = {t for name in names for t in sources.types(name)}
    if trim is not None:
        types |= {dtype, np.dtype(np.float32)} if trim.rescale else {dtype}
    common = types.pop() if len(types) == 1 else np.dtype(np.float32)
    experts = jax.ShapeDtypeStruct((len(sources.experts), *shape), common)
    return jax.ShapeDtypeStruct(shape, dtype), experts


def entries_of(sources: Sources) -> int:
    """Entries of a run, or of all weights that go through the engine at once."""
    return BUDGET // (4 * (1 + len(sources.experts)))


def batch_of(bucket: trees.Bucket, entries: int) -> int:
    """Weights of a bucket that go through the engine at once."""
    return max(1, entries // max(math.prod(bucket.shape[1:]), 1))


def _groups(
    sources: Sources,
    steps: Mapping[str, Step],
    elementwise: Container[Role],
    plan: Mapping[str, trees.Layout],
) -> Iterator[tuple[Step, list[list[str]], dict[str, WholeModel], _Plan]]:
    """For each step the tensors that go in runs, by their type; by rows; and whole."""
    entries = entries_of(sources)
    for step, names in by_step(steps):
        flat = [name for name in names if plan[name].role in elementwise]
        types = dict.fromkeys(sources.dtypes[name] for name in flat)
        runs = [[n for n in flat if sources.dtypes[n] == dtype] for dtype in types]
        others = {n: plan[n] for n in names if plan[n].role not in elementwise}
        method = by_rows(step.method)
        large = {
            name: method
            for name, layout in others.items()
            if method and _has_rows(sources.leaf(name), layout, entries)
        }
        yield step, runs, large, {n: others[n] for n in others if n not in large}


def _has_rows(leaf: jax.ShapeDtypeStruct, layout: trees.Layout, entries: int) -> bool:
    """Whether a leaf is large, and its first axis that of the weight."""
    is_large = leaf.size > entries and leaf.ndim > 1
    return is_large and trees.is_canonical(leaf.shape, layout)


def _rows(shape: tuple[int, ...], entries: int) -> tuple[int, ...]:
    """The shape of the pieces of a leaf, of which the last may have fewer rows.

    Of alike pieces if they need not be less than half as large for that.

    >>> _rows((12, 4), 20), _rows((13, 4), 20), _rows((13, 40), 20)
    ((4, 4), (5, 4), (1, 40))
    """
    total, *rest = shape
    most = max(1, entries // math.prod(rest))
    alike = (rows for rows in range(most, most // 2, -1) if total % rows == 0)
    return (next(alike, most), *rest)


def by_step(steps: Mapping[str, Step]) -> list[tuple[Step, list[str]]]:
    """The tensors that share a step."""
    groups: dict[int, tuple[Step, list[str]]] = {}
    for name, step in steps.items():
        groups.setdefault(id(step), (step, []))[1].append(name)
    return list(groups.values())


def _in_buckets(
    sources: Sources,
    step: Step,
    plan: Mapping[str, trees.Layout],
    key: jax.Array,
    entries: int,
    wanted: Container[str],
) -> Iterator[Chunk]:
    """Whole tensors, those of one shape together: as many as if all were wanted."""
    leaves = {name: sources.leaf(name) for name in plan}
    for bucket in trees.buckets(leaves, plan):
        now = {name: leaves[name] for name in bucket.names if name in wanted}
        if not now:
            continue
        merging = engine.stream(
            now,
            sources.read,
            step.method,
            key=key,
            layout=lambda leaves: {name: plan[name] for name in leaves},
            batch=batch_of(bucket, entries),
            among=bucket.names,
        )
        for name, leaf in merging:
            merged_entries = np.asarray(leaf).reshape(-1)
            yield Piece(name, slice(0, merged_entries.size)), merged_entries


def _by_rows(
    sources: Sources,
    method: WholeModel,
    name: str,
    layout: trees.Layout,
    key: jax.Array,
    entries: int,
) -> Iterator[Chunk]:
    """One tensor, some rows at a time."""
    leaf = sources.leaf(name)
    rows, *rest = _rows(leaf.shape, entries)
    starts = {str(i): i for i in range(0, leaf.shape[0], rows)}
    leaves = {
        label: jax.ShapeDtypeStruct((min(rows, leaf.shape[0] - i), *rest), leaf.dtype)
        for label, i in starts.items()
    }
    width = math.prod(rest)
    parts = {
        label: slice(i * width, i * width + leaves[label].size)
        for label, i in starts.items()
    }

    shapes = {leaf.shape for leaf in leaves.values()}
    pairs = {shape: _together(sources, [name], shape) for shape in shapes}
    # JAX is done with one piece before the next is read to the same place.
    memory = {shape: tuple(map(_aligned, pair)) for shape, pair in pairs.items()}

    def read(label: str) -> tuple[np.ndarray, np.ndarray]:
        base, experts = memory[leaves[label].shape]
        flat = base.reshape(-1), experts.reshape(len(experts), -1)
        piece = Piece(name, parts[label])
        sources.fill(piece, None, sources.cuts(name, None), *flat)
        return base, experts

    merging = engine.stream(
        leaves,
        read,
        method,
        key=key,
        layout=lambda leaves: dict.fromkeys(leaves, layout),
        batch=1,
        places={label: engine.Place(name, i) for label, i in starts.items()},
    )
    for label, merged_rows in merging:
        yield Piece(name, parts[label]), np.asarray(merged_rows).reshape(-1)


def _in_runs(
    sources: Sources, step: Step, names: list[str], entries: int
) -> Iterator[Chunk]:
    """Tensors of one type, entry by entry; the empty ones first."""
    sizes = {name: sources.donor.spec(name).size for name in names}
    for name in (n for n in names if not sizes[n]):
        yield Piece(name, slice(0, 0)), np.empty(0, sources.dtypes[name])
    if not any(sizes.values()):
        return
    length = _length(sum(sizes.values()), entries)
    runs = {str(i): run for i, run in enumerate(_runs(sizes, length))}
    leaf, rows = _together(sources, names, (length,), step.trim)
    # While JAX reads the arrays of one run, the next run is written to the others.
    memory = cycle([(_aligned(leaf), _aligned(rows)) for _ in range(2)])

    @lru_cache(maxsize=1)  # for the tensor that runs break up
    def cuts(name: str) -> tuple[Cut, ...]:
        return sources.cuts(name, step.trim)

    def read(label: str) -> tuple[np.ndarray, np.ndarray]:
        base, experts = next(memory)
        start = 0
        for piece in runs[label]:
            stop = start + piece.part.stop - piece.part.start
            here = base[start:stop], experts[:, start:stop]
            sources.fill(piece, step.trim, cuts(piece.tensor), *here)
            start = stop
        base[start:], experts[:, start:] = 0, 0
        return base, experts

    merging = engine.stream(
        dict.fromkeys(runs, leaf),
        read,
        step.method,
        layout=lambda leaves: dict.fromkeys(leaves, _FLAT),
        batch=1,
    )
    for label, merged_run in _one_behind(merging):
        yield from _pieces(runs[label], np.asarray(merged_run))


def _one_behind(items: Iterable[_Item]) -> Iterator[_Item]:
    """Each item once the next is under way: JAX merges one run while one is read.

    >>> list(_one_behind("abc"))
    ['a', 'b', 'c']
    """
    waiting: list[_Item] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _length(size: int, most: int) -> int:
    """Entries of a run: a power of two, so that few lengths are compiled.

    >>> _length(5, 100), _length(70, 100)
    (8, 100)
    """
    return min(most, 1 << (size - 1).bit_length())


def _runs(sizes: dict[str, int], entries: int) -> list[Run]:
    """Cut the tensors, laid end to end, every so many entries.

    >>> runs = _runs({"a": 2, "b": 5}, 4)
    >>> [[(p.tensor, p.part.start, p.part.stop) for p in run] for run in runs]
    [[('a', 0, 2), ('b', 0, 2)], [('b', 2, 5)]]
    """
    runs: list[Run] = [[]]
    left = entries
    for name, size in sizes.items():
        start = 0
        while start < size:
            if left == 0:
                runs.append([])
                left = entries
            stop = min(size, start + left)
            runs[-1].append(Piece(name, slice(start, stop)))
            left -= stop - start
            start = stop
    return [run for run in runs if run]


def _aligned(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
    """An array, not filled, that starts where XLA takes it without a copy."""
    size = math.prod(leaf.shape) * leaf.dtype.itemsize
    memory = np.empty(size + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + size].view(leaf.dtype).reshape(leaf.shape)


def _pieces(run: Run, entries: np.ndarray) -> Iterator[Chunk]:
    """What each piece of a run became."""
    start = 0
    for piece in run:
        stop = start + piece.part.stop - piece.part.start
        yield piece, entries[start:stop]
        start = stop
