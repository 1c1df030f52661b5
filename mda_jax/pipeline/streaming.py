"""The merged tensors of a model, one after the other, in bounded memory.

Where a method treats every entry by itself, tensors are cut and joined into flat runs
of one length: one compilation serves them all, and the largest table needs no more
memory than a run. Other tensors go to the engine whole, bucket by bucket.
"""

from collections.abc import Iterable, Iterator
from functools import lru_cache

import jax
import numpy as np

from mda_jax import engine, trees
from mda_jax._types import Role
from mda_jax.pipeline.recipe import Recipe
from mda_jax.pipeline.sources import Piece, Sources


BUDGET = 8 << 20  # bytes of float32 copies that one call of the engine works on

Run = list[Piece]
_FLAT = trees.Layout(Role.VECTOR, out=(0,))


def merged(
    sources: Sources, recipe: Recipe, plan: dict[str, trees.Layout], key: jax.Array
) -> Iterator[tuple[str, np.ndarray]]:
    """Merge every tensor.

    Args:
      sources: the models.
      recipe: the method.
      plan: the layout of every tensor to merge.
      key: for methods that draw random numbers.

    Yields:
      `(name, merged tensor)`, in the types of `sources.dtypes`.
    """
    entries = BUDGET // (4 * (1 + len(sources.experts)))
    flat = [n for n, layout in plan.items() if layout.role in recipe.elementwise]
    for dtype in dict.fromkeys(sources.dtypes[n] for n in flat):
        alike = [n for n in flat if sources.dtypes[n] == dtype]
        yield from _in_runs(sources, recipe, alike, entries)
    whole = {
        n: sources.leaf(n)
        for n, layout in plan.items()
        if layout.role not in recipe.elementwise
    }
    for bucket in trees.buckets(whole, plan):
        size = int(np.prod(bucket.shape[1:]))  # of one weight
        merging = engine.stream(
            {name: whole[name] for name in bucket.names},
            sources.read,
            recipe.stage,
            key=key,
            layout=lambda leaves: {name: plan[name] for name in leaves},
            batch=max(1, entries // max(size, 1)),
        )
        for name, leaf in merging:
            yield name, np.asarray(leaf)


def _in_runs(
    sources: Sources, recipe: Recipe, names: list[str], entries: int
) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors of one type, entry by entry; the empty ones first."""
    sizes = {name: sources.donor.spec(name).size for name in names}
    for name in (n for n in names if not sizes[n]):
        yield name, np.empty(sources.leaf(name).shape, sources.dtypes[name])
    if not any(sizes.values()):
        return
    runs = {str(i): run for i, run in enumerate(_runs(sizes, entries))}
    length = min(entries, sum(sizes.values()))
    leaf = jax.ShapeDtypeStruct((length,), sources.dtypes[names[0]])
    cuts = lru_cache(maxsize=1)(sources.cuts)  # for the tensor that runs break up

    def read(label: str) -> tuple[np.ndarray, list[np.ndarray]]:
        parts = [sources.read_piece(piece, cuts(piece.tensor)) for piece in runs[label]]
        experts = zip(*(expert for _, expert in parts), strict=True)
        base = _joined((base for base, _ in parts), length)
        return base, [_joined(each, length) for each in experts]

    merging = engine.stream(
        dict.fromkeys(runs, leaf),
        read,
        recipe.stage,
        layout=lambda leaves: dict.fromkeys(leaves, _FLAT),
        batch=1,
    )
    yield from _tensors(sources, ((runs[label], run) for label, run in merging))


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


def _joined(parts: Iterable[np.ndarray], length: int) -> np.ndarray:
    """The parts end to end, in their common type or else float32, padded with zeros."""
    parts = list(parts)
    if [part.size for part in parts] == [length]:
        return parts[0]
    types = {part.dtype for part in parts}
    joined = np.zeros(length, types.pop() if len(types) == 1 else np.float32)
    start = 0
    for part in parts:
        joined[start : start + part.size] = part
        start += part.size
    return joined


def _tensors(
    sources: Sources, merged_runs: Iterable[tuple[Run, jax.Array]]
) -> Iterator[tuple[str, np.ndarray]]:
    """Put the pieces of each tensor together again; they come in order."""
    result = np.empty(0)
    for run, merged_run in merged_runs:
        entries, start = np.asarray(merged_run), 0
        for name, part in run:
            leaf = sources.leaf(name)
            if part.start == 0:
                result = np.empty(leaf.size, leaf.dtype)
            stop = start + part.stop - part.start
            result[part] = entries[start:stop]
            start = stop
            if part.stop == leaf.size:
                whole, result = result, np.empty(0)
                yield name, whole.reshape(leaf.shape)
                del whole
