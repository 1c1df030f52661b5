"""The merged tensors of a model, one after the other, in bounded memory.

Where a method treats every entry by itself, tensors are cut and joined into flat runs
of one length: one compilation serves them all, and the largest table needs no more
memory than a run. Other tensors go to the engine whole, bucket by bucket.
"""

import math
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import cycle
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from mda_jax import engine, trees
from mda_jax._types import Role
from mda_jax.pipeline.bits import SLICE
from mda_jax.pipeline.recipe import Step
from mda_jax.pipeline.sources import Piece, Sources
from mda_jax.pipeline.trim import Cut


BUDGET = 8 << 20  # bytes of float32 copies that one call of the engine works on

_SLICES = 4 * 8 * SLICE  # bytes of those that tensors are trimmed and measured by
WAITING = 4  # chunks that may wait to be written

_ALIGNMENT = 64  # bytes

Run = list[Piece]
Chunk = tuple[Piece, np.ndarray]  # some entries of a tensor, [n]
_Item = TypeVar("_Item")
_Call = tuple[Any, Any, trees.Layout, int]  # base, experts (abstract), layout, batch
_FLAT = trees.Layout(Role.VECTOR, out=(0,))


def merged(
    sources: Sources,
    steps: Mapping[str, Step],
    elementwise: Container[Role],
    plan: Mapping[str, trees.Layout],
    key: jax.Array,
) -> Iterator[Chunk]:
    """Merge every tensor.

    Args:
      sources: the models.
      steps: what happens to every tensor to merge.
      elementwise: the roles whose tensors are merged entry by entry.
      plan: the layout of every tensor to merge.
      key: for methods that draw random numbers.

    Yields:
      The merged entries, those of each tensor in order, in the types of
      `sources.dtypes`.
    """
    entries = _entries(sources)
    for step, runs, whole in _groups(sources, steps, elementwise, plan):
        for names in runs:
            yield from _in_runs(sources, step, names, entries)
        yield from _in_buckets(sources, step, whole, key, entries)


def held(
    sources: Sources,
    steps: Mapping[str, Step],
    elementwise: Container[Role],
    plan: Mapping[str, trees.Layout],
) -> int:
    """Bytes that `merged` holds at most; compiles its kernels, and reads nothing.

    Args:
      sources: the models.
      steps: as for `merged`, stages alone.
      elementwise: as for `merged`.
      plan: as for `merged`.

    Returns:
      Mapped files, their copies, what the compiler sets aside, and the results that
      wait to be written.
    """
    entries, most = _entries(sources), lru_cache(_most)
    found = [0]
    for step, runs, whole in _groups(sources, steps, elementwise, plan):
        leaves, structure = jax.tree.flatten(step.method)
        kinds = structure, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)
        calls: list[_Call] = []
        for names in runs:
            length = _length(sum(sources.leaf(n).size for n in names), entries)
            base = jax.ShapeDtypeStruct((length,), sources.dtypes[names[0]])
            shape = len(sources.experts), length
            rows = jax.ShapeDtypeStruct(shape, _type(sources, step, names))
            calls.append((base, rows, _FLAT, 1))
        for bucket in trees.buckets({n: sources.leaf(n) for n in whole}, whole):
            name, batch = bucket.names[0], _batch(bucket, entries)
            base, types = sources.leaf(name), sources.types(name)
            experts = tuple(jax.ShapeDtypeStruct(base.shape, t) for t in types)
            calls.append((base, experts, whole[name], min(len(bucket.names), batch)))
        found += (most(_Static(kinds, step.method), *call) for call in calls)
    return max(found) + _SLICES


class _Static:
    """A stage that counts as equal to another with other numbers of the same kinds."""

    def __init__(self, kinds: Hashable, stage: Any):
        self.kinds, self.stage = kinds, stage

    def __hash__(self) -> int:
        return hash(self.kinds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.kinds == other.kinds


def _most(
    stage: _Static, base: Any, experts: Any, layout: trees.Layout, batch: int
) -> int:
    """Bytes that the calls for leaves of one kind hold."""
    leaves = {str(i): base for i in range(batch)}
    found = engine.workspaces(
        leaves,
        lambda name: (base, experts),
        stage.stage,
        layout=lambda leaves: dict.fromkeys(leaves, layout),
        batch=batch,
    )
    return max(2 * w.arguments + w.temporary + WAITING * w.results for w in found)


def _entries(sources: Sources) -> int:
    """Entries of a run, or of all weights that go through the engine at once."""
    return BUDGET // (4 * (1 + len(sources.experts)))


def _batch(bucket: trees.Bucket, entries: int) -> int:
    """Weights of a bucket that go through the engine at once."""
    return max(1, entries // max(math.prod(bucket.shape[1:]), 1))


def _groups(
    sources: Sources,
    steps: Mapping[str, Step],
    elementwise: Container[Role],
    plan: Mapping[str, trees.Layout],
) -> Iterator[tuple[Step, list[list[str]], dict[str, trees.Layout]]]:
    """For each step the tensors that go in runs, by their type, and all others."""
    for step, names in _alike(steps):
        flat = [name for name in names if plan[name].role in elementwise]
        types = dict.fromkeys(sources.dtypes[name] for name in flat)
        runs = [[n for n in flat if sources.dtypes[n] == dtype] for dtype in types]
        yield step, runs, {n: plan[n] for n in names if plan[n].role not in elementwise}


def _alike(steps: Mapping[str, Step]) -> list[tuple[Step, list[str]]]:
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
) -> Iterator[Chunk]:
    """Whole tensors, those of one shape together."""
    leaves = {name: sources.leaf(name) for name in plan}
    for bucket in trees.buckets(leaves, plan):
        merging = engine.stream(
            {name: leaves[name] for name in bucket.names},
            sources.read,
            step.method,
            key=key,
            layout=lambda leaves: {name: plan[name] for name in leaves},
            batch=_batch(bucket, entries),
        )
        for name, leaf in merging:
            merged_entries = np.asarray(leaf).reshape(-1)
            yield Piece(name, slice(0, merged_entries.size)), merged_entries


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
    leaf = jax.ShapeDtypeStruct((length,), sources.dtypes[names[0]])
    shape = len(sources.experts), length
    rows = jax.ShapeDtypeStruct(shape, _type(sources, step, names))
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


def _type(sources: Sources, step: Step, names: list[str]) -> np.dtype:
    """In which the experts' entries lose nothing: the one they share, or float32."""
    types = {t for name in names for t in sources.types(name)}
    if step.trim is not None:
        types |= {sources.dtypes[name] for name in names}
    exact = len(types) == 1 and not (step.trim is not None and step.trim.rescale)
    return types.pop() if exact else np.dtype(np.float32)


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
