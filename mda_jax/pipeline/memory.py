"""How much memory a merge is to hold, told before it starts."""

import mmap
import resource
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mda_jax import engine, trees
from mda_jax.pipeline import trim
from mda_jax.pipeline.bits import SLICE
from mda_jax.pipeline.errors import ConfigError
from mda_jax.pipeline.job import Job
from mda_jax.pipeline.streaming import WAITING, calls


_SLICES = 4 * 8 * SLICE  # bytes of those that tensors are trimmed and measured by


class Peak(NamedTuple):
    """The most that a merge is to hold."""

    size: int  # in bytes, JAX and its compiler included
    tensor: str  # that takes so much
    shape: tuple[int, ...]  # of what is in memory of it


def peak_memory(job: Job) -> Peak:
    """Tell the most that a merge is to hold; compiles its kernels, and reads nothing.

    Args:
      job: the merge.

    Returns:
      Of the tensor that takes most: mapped files, their copies, what the compiler sets
      aside, and the results that wait to be written; and what this process holds,
      which by now is what JAX takes.
    """
    found, most = [Peak(0, "", ())], lru_cache(_most)
    for part, sources in job.parts:
        given = sources, part.steps, part.elementwise, job.plan
        for name, method, base, *how in calls(*given):
            size = most(_Static(method), base, *how)
            found.append(Peak(size, name, base.shape))
    largest = max(found)
    size = _resident() + _SLICES + _trimming(job) + largest.size
    return largest._replace(size=size)


def check_memory(job: Job, most: int) -> None:
    """Refuse a merge that would hold more.

    Raises:
      ConfigError: it would.
    """
    peak = peak_memory(job)
    if peak.size > most:
        raise ConfigError(
            f"{job.recipe.method} would hold {peak.size / 1e6:.0f} MB here, more than"
            f" the {most / 1e6:.0f} MB allowed, for {peak.tensor!r}, of which it needs"
            f" {peak.shape} at once. Allow more, or choose a method that works by"
            " entries or by rows."
        )


def _trimming(job: Job) -> int:
    """Bytes of the largest delta that is trimmed that are held for it."""
    sizes = (
        sources.leaf(name).size
        for part, sources in job.parts
        for name, step in part.steps.items()
        if step.trim is not None
    )
    return trim.held(max(sizes, default=0))


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


def _most(
    method: _Static, base: Any, experts: Any, layout: trees.Layout, batch: int
) -> int:
    """Bytes that the calls for leaves of one kind hold."""
    found = engine.workspaces(
        {str(i): base for i in range(batch)},
        lambda name: (base, experts),
        method.method,
        layout=lambda leaves: dict.fromkeys(leaves, layout),
        batch=batch,
    )
    return max(2 * w.arguments + w.temporary + WAITING * w.results for w in found)


def _resident() -> int:
    """Bytes that this process holds; the most it ever held where `/proc` is missing."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * mmap.PAGESIZE
