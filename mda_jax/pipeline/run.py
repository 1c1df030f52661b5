"""A merge from files to files."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mda_jax import trees
from mda_jax._types import Role
from mda_jax.converters.formats import SafetensorsWriter, Spec, open_tensors
from mda_jax.converters.formats.writer import SHARD_SIZE
from mda_jax.pipeline.bits import is_finite, same_values
from mda_jax.pipeline.config import load
from mda_jax.pipeline.folder import check_absent, new_folder
from mda_jax.pipeline.inventory import Inventory, account, differing_copies
from mda_jax.pipeline.recipe import Recipe, recipe
from mda_jax.pipeline.report import Report
from mda_jax.pipeline.sidecars import copy_sidecars
from mda_jax.pipeline.sources import Sources
from mda_jax.pipeline.streaming import merged


Watch = Callable[[int, int], None]  # bytes written so far, and in all


class _Job(NamedTuple):
    """All that is settled before anything is written."""

    recipe: Recipe
    sources: Sources
    inventory: Inventory
    specs: dict[str, Spec]  # of the output
    plan: dict[str, trees.Layout]
    dtype: str | None  # asked for


def run(
    config: str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    layout: trees.Rules | None = None,
    shard_size: int = SHARD_SIZE,
    watch: Watch = lambda done, total: None,
) -> Report:
    """Merge model folders into a new one.

    The arithmetic is float32, cast once at the end. Memory is bounded by the largest
    tensor, not by the model.

    Args:
      config: a YAML file in mergekit's schema, or its content as a dictionary.
      out: the folder to create; it appears complete or not at all.
      seed: for methods that draw random numbers.
      layout: rules for the roles of tensors; see `mda_jax.trees.layouts`.
      shard_size: bytes per weight file.
      watch: called with the bytes written so far, and in all.

    Returns:
      What happened to every tensor.

    Raises:
      ConfigError: the configuration or the target makes no sense.
      FormatError: a weight file is damaged.
      MergeError: the models do not fit each other, or the result is not finite.
    """
    start, target = time.perf_counter(), Path(os.path.abspath(out))
    check_absent(target)
    job = _settled(config, layout)
    donor, experts, copied = (
        job.sources.donor,
        job.sources.experts,
        job.inventory.copied,
    )
    warnings = _doubts(job, differing_copies(donor, experts, copied))
    with new_folder(target) as folder:
        files = _sidecars(job, folder)
        with SafetensorsWriter(folder, job.specs, shard_size=shard_size) as writer:
            output = _Output(job, writer, watch)
            for name in copied:
                output.write(name, donor[name])
            key = jax.random.key(seed)
            for name, tensor in merged(job.sources, job.recipe, job.plan, key):
                output.check_and_write(name, tensor)
                del tensor  # before the next one is made
    if not output.changed:
        warnings.append(f"the merged weights equal those of {donor.path}, all of them.")
    seconds = time.perf_counter() - start
    return _report(job, target, files, warnings, seconds)


class _Output:
    """The weights on their way to disk."""

    def __init__(self, job: _Job, writer: SafetensorsWriter, watch: Watch):
        self.changed = False
        self._job, self._writer, self._watch = job, writer, watch
        self._total = sum(spec.nbytes for spec in job.specs.values())
        self._done = 0

    def check_and_write(self, name: str, tensor: np.ndarray) -> None:
        """Cast a merged tensor, refuse NaN and infinity, note whether it is new."""
        with np.errstate(over="ignore"):
            tensor = tensor.astype(self._job.specs[name].dtype, copy=False)
        if not is_finite(lambda: tensor):
            raise self._job.sources.not_finite(name)
        donor = self._job.sources.donor
        self.changed = self.changed or not same_values(
            lambda: tensor, lambda: donor[name]
        )
        self.write(name, tensor)

    def write(self, name: str, tensor: np.ndarray) -> None:
        self._writer.write(name, tensor)
        self._done += tensor.nbytes
        self._watch(self._done, self._total)


def _settled(config: Any, layout: trees.Rules | None) -> _Job:
    """Everything that can be wrong before a tensor is read."""
    request = load(config)
    todo = recipe(request)
    donor, experts = open_tensors(todo.donor), tuple(map(open_tensors, todo.experts))
    found = account(donor, experts)
    dtype = request.config.out_dtype or request.config.dtype
    specs = {name: donor.spec(name) for name in donor}
    if dtype is not None:
        for name, spec in found.merged.items():
            specs[name] = spec._replace(dtype=jnp.dtype(dtype))
    working = {n: _working(spec, specs[n]) for n, spec in found.merged.items()}
    sources = Sources(donor, experts, found.tied, todo.subtract, working, todo.trim)
    leaves = {
        n: jax.ShapeDtypeStruct(s.shape, s.dtype) for n, s in found.merged.items()
    }
    return _Job(todo, sources, found, specs, trees.layouts(leaves, layout), dtype)


def _working(read: Spec, written: Spec) -> np.dtype:
    """Type in which the engine gives a tensor back: no rounding but the last."""
    same = read.dtype == written.dtype and read.dtype.itemsize <= 4
    return read.dtype if same else np.dtype(np.float32)


def _doubts(job: _Job, differing: list[str]) -> list[str]:
    """What deserves a second look, one line each."""
    doubts = []
    if differing:
        doubts.append(
            f"{len(differing)} integer tensors differ between the models,"
            f" {differing[0]!r} first; the output has those of {job.recipe.donor}."
        )
    statistics = [n for n, lay in job.plan.items() if lay.role is Role.BUFFER]
    if statistics:
        doubts.append(
            f"{len(statistics)} running statistics were merged like weights,"
            f" {statistics[0]!r} first; re-estimate them on data."
        )
    wide = [n for n, spec in job.inventory.merged.items() if spec.dtype.itemsize > 4]
    if wide:
        doubts.append(f"{len(wide)} float64 tensors were merged in float32 arithmetic.")
    return doubts


def _sidecars(job: _Job, folder: Path) -> list[Path]:
    donor = job.recipe.donor
    return copy_sidecars(donor, folder, job.dtype) if donor.is_dir() else []


def _report(
    job: _Job, out: Path, files: list[Path], warnings: list[str], seconds: float
) -> Report:
    copied, experts = job.inventory.copied, job.sources.experts
    rules = {n: copied.get(n) or _rule(job.recipe, job.plan[n].role) for n in job.specs}
    tied = {
        str(e.path): t for e, t in zip(experts, job.inventory.tied, strict=True) if t
    }
    dropped = {model: names for model, names in job.inventory.dropped.items() if names}
    method = job.recipe.method
    return Report(out, method, rules, dropped, tied, files, warnings, seconds)


def _rule(todo: Recipe, role: Role) -> str:
    spectral = todo.elementwise != frozenset(Role)
    if spectral and role in todo.elementwise:
        return f"entry by entry: not a matrix ({role.value})"
    return f"merged by {todo.method}"
