"""What memory and time a merge is to take, told before it starts."""

import mmap
import resource
from collections.abc import Hashable
from functools import cache, lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mda_jax import engine, trees
from mda_jax.pipeline import output, trim
from mda_jax.pipeline.bits import SLICE, fastest
from mda_jax.pipeline.errors import ConfigError
from mda_jax.pipeline.job import Job
from mda_jax.pipeline.parts import Part
from mda_jax.pipeline.sources import Sources
from mda_jax.pipeline.streaming import WAITING, calls


_SLICES = 4 * 8 * SLICE  # bytes of those that tensors are trimmed and measured by


class Forecast(NamedTuple):
    """What a merge is to take."""

    memory: int  # the most that it holds, in bytes, JAX and its compiler included
    tensor: str  # that takes so much
    shape: tuple[int, ...]  # of what is in memory of it
    seconds: float  # the least that it takes, once it has started


def forecast(job: Job) -> Forecast:
    """Tell what a merge is to take; compiles its kernels, and reads nothing.

    Args:
      job: the merge.

    Returns:
      The memory is that of the tensor that takes most: its entries, their copies, what
      the compiler sets aside, and the results that wait to be written; and what this
      process holds, which by now is what JAX takes. The time is the least: what the
      compiler counts at rates that are measured here, and what trimming and writing
      take by a trial. Reading files and factorisations of matrices are not counted.
    """
    each, needs = [], lru_cache(_needs)
    for part, sources in job.parts:
        given = sources, part.steps, part.elementwise, job.plan
        for name, method, base, experts, layout, batch, times in calls(*given):
            found = needs(_Static(method), base, experts, layout, batch)
            each.append((max(map(_held, found)), name, base.shape, times, found))
    size, tensor, shape, *_ = max(each, key=itemgetter(0), default=(0, "", ()))
    deltas = _trimmed(job)
    memory = _resident() + _SLICES + size + max(map(trim.held, deltas), default=0)
    merging = sum(times * sum(map(_seconds, found)) for *_, times, found in each)
    merging += sum(deltas) * trim.seconds_per_entry() if deltas else 0.0
    writing = sum(_writing(*pair) for pair in job.parts)
    return Forecast(memory, tensor, shape, max(merging, writing))


def check_memory(job: Job, most: int) -> None:
    """Refuse a merge that would hold more.

    Raises:
      ConfigError: it would.
    """
    peak = forecast(job)
    if peak.memory > most:
        raise ConfigError(
            f"{job.recipe.method} would hold {peak.memory / 1e6:.0f} MB here, more than"
            f" the {most / 1e6:.0f} MB allowed, for {peak.tensor!r}, of which it needs"
            f" {peak.shape} at once. Allow more, or choose a method that works by"
            " entries or by rows."
        )


def _trimmed(job: Job) -> list[int]:
    """The sizes of the deltas of one tensor that are trimmed at once, all together."""
    return [
        len(sources.experts) * sources.leaf(name).size
        for part, sources in job.parts
        for name, step in part.steps.items()
        if step.trim is not None
    ]


class _Static:
    """A method that counts as equal to another with other numbers of the same kinds."""

    def __init__(self, method: Any):
        self.method = method
        self._kinds: Hashable = _kinds(method)

    def __hash__(self) -> int:
        return hash(self._kinds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self._kinds == other._kinds


def _kinds(method: Any) -> Hashable:
    leaves, structure = jax.tree.flatten(method)
    return structure, tuple((jnp.shape(x), jnp.result_type(x)) for x in leaves)


def _needs(
    method: _Static, base: Any, experts: Any, layout: trees.Layout, batch: int
) -> list[engine.Workspace]:
    """What the calls for leaves of one kind need."""
    return engine.workspaces(
        {str(i): base for i in range(batch)},
        lambda name: (base, experts),
        method.method,
        layout=lambda leaves: dict.fromkeys(leaves, layout),
        batch=batch,
    )


def _held(w: engine.Workspace) -> int:
    return 2 * w.arguments + w.temporary + WAITING * w.results


def _seconds(w: engine.Workspace) -> float:
    operations, traffic = _rates()
    return w.operations / operations + w.traffic / traffic


@cache
def _rates() -> tuple[float, float]:
    """Operations, and bytes of entries that are cast and added, each second."""
    matrix = jnp.ones((512, 512))
    entries = jnp.ones(1 << 20, jnp.bfloat16)
    product = jax.jit(jnp.matmul).lower(matrix, matrix).compile()
    double = jax.jit(lambda x: x.astype(jnp.float32) + 1).lower(entries).compile()
    return (
        2 * 512**3 / fastest(lambda: product(matrix, matrix).block_until_ready()),
        6 * entries.size / fastest(lambda: double(entries).block_until_ready()),
    )


def _writing(part: Part, sources: Sources) -> float:
    """Seconds to check, measure and digest what comes out."""
    digest, compare = output.seconds_per_entry()
    compared = 1 + len(sources.experts) * sources.disagree / 8  # of eight blocks one
    entries = sum(sources.leaf(name).size for name in part.steps)
    return entries * (digest + compared * compare)


def _resident() -> int:
    """Bytes that this process holds; the most it ever held where `/proc` is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * mmap.PAGESIZE
