"""A merge from files to files."""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np

from mda_jax import trees
from mda_jax.converters.formats import SafetensorsWriter
from mda_jax.converters.formats.folder import (
    check_absent,
    check_apart,
    check_replaceable,
    new_folder,
)
from mda_jax.converters.formats.writer import SHARD_SIZE
from mda_jax.pipeline.arithmetic import Arithmetic, in_float32
from mda_jax.pipeline.description import (
    describe,
    identity_of,
    report_of,
    unchanged,
    write_sidecars,
)
from mda_jax.pipeline.dialect import Step
from mda_jax.pipeline.document import Document
from mda_jax.pipeline.forecast import check_memory
from mda_jax.pipeline.job import Job, doubts, settle, surveyed
from mda_jax.pipeline.journal import Journal, holds
from mda_jax.pipeline.manifest import MANIFEST, inputs
from mda_jax.pipeline.mesh import on_mesh
from mda_jax.pipeline.naming import Rules
from mda_jax.pipeline.output import Output
from mda_jax.pipeline.report import Report
from mda_jax.pipeline.sources import Piece, Sources
from mda_jax.pipeline.streaming import ONE_DEVICE, Where


Watch = Callable[[int, int], None]  # bytes written so far, and in all


def run(
    config: Document | str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    layout: trees.Rules | None = None,
    shard_size: int = SHARD_SIZE,
    force: bool = False,
    resume: bool = False,
    card: bool = True,
    tokenizer: bool = True,
    truncate_embeddings: bool = False,
    names: Rules = MappingProxyType({}),
    max_memory: int | None = None,
    mesh: jax.sharding.Mesh | None = None,
    digest_inputs: bool = False,
    arithmetic: Arithmetic = in_float32,
    watch: Watch = lambda done, total: None,
) -> Report:
    """Merge model folders into a new one.

    Memory is bounded by some rows of the largest tensor, or by all of it, as the method
    allows. An interrupted merge leaves its finished weight files in `OUT.partial`.

    Args:
      config: a YAML file in mergekit's schema, or its content as a dictionary, or
        parsed already.
      out: the folder to create; it appears complete or not at all.
      seed: for methods that draw random numbers.
      layout: rules for the roles of tensors; see `mda_jax.trees.layouts`.
      shard_size: bytes per weight file.
      force: replace a folder of that name, once the new one is complete.
      resume: use the finished weight files of an interrupted merge; nothing is done if
        the same merge is complete already. A model counts as unchanged if its files
        have the same names, sizes and times of their last change.
      card: write a model card, `README.md`.
      tokenizer: copy the tokenizer's files; one that the configuration asks for is
        written in any case.
      truncate_embeddings: cut the token tables of all models to the shortest, whatever
        the tokens beyond it are; for models that differ in their vocabularies.
      names: rules for what names of tensors mean, where that is inferred wrongly: a
        YAML file, or its content as a dictionary; see `naming.load_naming`.
      max_memory: bytes that the process may hold; a merge that needs more, by the
        compiler's prediction, is refused. None compiles once instead of twice.
      mesh: of devices of this process, over which every tensor is spread; see
        `mesh_of`. None merges on one device, in pieces.
      digest_inputs: read all weight files of the models once more, beside the merge,
        for their SHA-256 in the manifest; it has that of their headers in any case.
      arithmetic: `in_float32`, which rounds once in the end, or `as_mergekit`: in the
        type that mergekit computes in, rounded after every operation.
      watch: called with the bytes written so far, and in all.

    Returns:
      What happened to every tensor.

    Raises:
      ConfigError: the configuration or the target makes no sense.
      FormatError: a weight file is damaged.
      MergeError: the models do not fit each other, or the result is not finite.
    """
    start, target = time.perf_counter(), Path(os.path.abspath(out))
    check_target = check_replaceable if force else check_absent
    if not resume:
        check_target(target)
    how = layout, arithmetic, names
    job = settle(config, *how, truncate_embeddings=truncate_embeddings)
    where, axes = (ONE_DEVICE, {}) if mesh is None else on_mesh(mesh)
    identity = identity_of(job, seed, shard_size, axes)
    if resume and _is_complete(target, identity):
        warnings = ["this merge is complete already; nothing was written."]
        return report_of(job, target, [], warnings, start)
    check_target(target)
    check_apart(target, job.inputs)
    if max_memory is not None:
        check_memory(job, max_memory)
    warnings = doubts(job)
    with (
        new_folder(target, force=force, resume=resume) as folder,
        ThreadPoolExecutor(1) as beside,
    ):
        digests = beside.submit(inputs, job.models, whole=digest_inputs)
        journal = Journal(folder, identity)
        files = write_sidecars(job, folder, tokenizer=tokenizer)
        key = jax.random.key(seed)
        _write_weights(job, where, folder, journal, key, shard_size, watch)
        records = {name: journal.records[name] for name in job.specs}
        warnings += unchanged(job, records)
        report = report_of(job, target, files, warnings, start)
        facts = {"seed": seed, "identity": identity, "inputs": digests.result()}
        describe(job, folder, report, records, facts, card=card)
        journal.remove()
    return report


def _write_weights(
    job: Job,
    where: Where,
    folder: Path,
    journal: Journal,
    key: jax.Array,
    shard_size: int,
    watch: Watch,
) -> None:
    """Merge file by file; those that are finished already are left alone."""
    done = sum(job.specs[name].nbytes for name in journal.records)
    total = sum(spec.nbytes for spec in job.specs.values())
    for leftover in folder.glob("*.safetensors*"):
        if leftover.name not in journal.finished:
            leftover.unlink()
    options = {"shard_size": shard_size, "finished": journal.finished}
    steps = surveyed(job, where.read)
    with (
        SafetensorsWriter(folder, job.specs, **options) as writer,
        Output(writer, job.specs) as output,
    ):
        for file, names in writer.files.items():
            for piece, entries, sources in _chunks(job, where, steps, set(names), key):
                output.put(piece, entries, sources)
                done += entries.size * job.specs[piece.tensor].dtype.itemsize
                watch(done, total)
            journal.add(file, output.finish(file))


def _chunks(
    job: Job,
    where: Where,
    steps: Mapping[str, Step],
    names: set[str],
    key: jax.Array,
) -> Iterator[tuple[Piece, np.ndarray, Sources]]:
    """The entries of some tensors of the output."""
    for part, sources in job.parts:
        for name in filter(names.__contains__, part.inventory.copied):
            entries = part.donor[name].reshape(-1)
            yield Piece(name, slice(0, entries.size)), entries, sources
        mine = {name: steps[name] for name in part.steps}
        about = sources, mine, part.elementwise, job.plan, key
        for piece, entries in where.merged(*about, names):
            yield piece, entries, sources


def _is_complete(target: Path, identity: str) -> bool:
    """Whether a folder has the result, intact."""
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        same, records = manifest["identity"] == identity, manifest["tensors"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return same and holds(target, records)
