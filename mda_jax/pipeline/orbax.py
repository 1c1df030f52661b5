"""A merge from files to Orbax, by one process or several, on a mesh of their devices.

The merged model stays on the devices until Orbax writes it, every process its shards.
What exists once (the new folder, the manifest, the other files) is the first process's.
"""

import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mda_jax import trees
from mda_jax.converters.formats import Spec, open_tensors
from mda_jax.converters.formats.arrays import nested
from mda_jax.converters.formats.folder import (
    check_absent,
    check_apart,
    check_replaceable,
    new_folder,
    partial_of,
)
from mda_jax.pipeline import hosts
from mda_jax.pipeline.arithmetic import Arithmetic, in_float32
from mda_jax.pipeline.description import (
    describe,
    identity_of,
    report_of,
    unchanged,
    write_sidecars,
)
from mda_jax.pipeline.document import Document
from mda_jax.pipeline.errors import MergeError
from mda_jax.pipeline.job import Job, doubts, settle, surveyed
from mda_jax.pipeline.journal import Records, digest
from mda_jax.pipeline.manifest import inputs
from mda_jax.pipeline.mesh import finished, merged_on, placed, read_on
from mda_jax.pipeline.naming import Rules
from mda_jax.pipeline.report import Report
from mda_jax.pipeline.run import Watch
from mda_jax.pipeline.views import View


WEIGHTS = "params"  # the folder in the new one that Orbax writes


def run_to_orbax(
    config: Document | str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str],
    mesh: Mesh,
    *,
    seed: int = 0,
    layout: trees.Rules | None = None,
    force: bool = False,
    card: bool = True,
    tokenizer: bool = True,
    truncate_embeddings: bool = False,
    names: Rules = MappingProxyType({}),
    digest_inputs: bool = False,
    arithmetic: Arithmetic = in_float32,
    watch: Watch = lambda done, total: None,
) -> Report:
    """Merge model folders into a new one whose weights Orbax restores.

    Called alike in every process; all see the same files. The weights are in the
    folder `params`, each under the name that the models give it; a slash in a name
    stands between keys. A device holds its share of the merged model, and of as many
    tensors as are merged at once.

    Args:
      config: as for `run`.
      out: as for `run`.
      mesh: of all devices of all processes; see `mesh_of`.
      seed: as for `run`.
      layout: as for `run`.
      force: as for `run`.
      card: as for `run`.
      tokenizer: as for `run`.
      truncate_embeddings: as for `run`.
      names: as for `run`.
      digest_inputs: as for `run`.
      arithmetic: as for `run`.
      watch: as for `run`.

    Returns:
      What happened to every tensor.

    Raises:
      ConfigError: the configuration or the target makes no sense.
      FormatError: a weight file is damaged.
      MergeError: the models do not fit each other, the result is not finite, or another
        process failed.
    """
    start, target = time.perf_counter(), Path(os.path.abspath(out))
    with hosts.together():
        (check_replaceable if force else check_absent)(target)
        how = layout, arithmetic, names
        job = settle(config, *how, truncate_embeddings=truncate_embeddings)
        _check(job)
        check_apart(target, job.inputs)
        identity = identity_of(job, seed, dict(mesh.shape))
        warnings = doubts(job)
    decisive = job.config, job.naming.document.data, job.arithmetic, job.plan, job.specs
    hosts.check_same("merge to do", repr((str(target), seed, force, *decisive)))
    with _shared_folder(target, force=force) as folder, ThreadPoolExecutor(1) as beside:
        models = job.models if hosts.is_first() else {}
        digests = beside.submit(inputs, models, whole=digest_inputs)
        arrays, records = _merged(job, mesh, jax.random.key(seed), watch)
        _save(folder / WEIGHTS, arrays)
        _add_digests(folder / WEIGHTS, records)
        warnings += unchanged(job, records)
        with hosts.together():
            if hosts.is_first():
                files = write_sidecars(job, folder, tokenizer=tokenizer)
                report = report_of(job, target, files, warnings, start)
                facts = {
                    "seed": seed,
                    "identity": identity,
                    "mesh": dict(mesh.shape),
                    "processes": jax.process_count(),
                    "inputs": digests.result(),
                }
                describe(job, folder, report, records, facts, card=card)
            else:
                report = report_of(job, target, [], warnings, start)
    return report


def _check(job: Job) -> None:
    """Raise if the output has what Orbax or JAX cannot hold on devices."""
    nested(job.specs)
    for part, _ in job.parts:
        for name in part.steps:
            if not _fits(job.specs[name].dtype):
                raise MergeError(
                    f"{name!r} would be {job.specs[name].dtype}, of which devices keep"
                    " 32 bits: give 'dtype: float32', or merge without --mesh."
                )


def _fits(dtype: np.dtype) -> bool:
    """Whether JAX keeps all bits of a type."""
    return bool(jax.dtypes.canonicalize_dtype(dtype) == dtype)


@contextmanager
def _shared_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """`new_folder` of the first process, for all."""
    with ExitStack() as stack:
        with hosts.together():
            if hosts.is_first():
                stack.enter_context(new_folder(out, force=force, resume=False))
        yield partial_of(out)
        with hosts.together():
            stack.close()


def _merged(
    job: Job, mesh: Mesh, key: jax.Array, watch: Watch
) -> tuple[dict[str, Any], Records]:
    """Every tensor of the output, on the mesh, and what is known of it."""
    arrays: dict[str, Any] = {}
    records: Records = {}
    total, done = sum(spec.nbytes for spec in job.specs.values()), 0
    steps = surveyed(job, partial(read_on, mesh))
    for part, sources in job.parts:
        for name in part.inventory.copied:
            with hosts.together():
                arrays[name] = _copied(part.donor, name, mesh)
            records[name] = _record(job.specs[name], 0.0, 0.0)
        mine = {name: steps[name] for name in part.steps}
        about = sources, mine, part.elementwise, job.plan, key
        for merged in merged_on(mesh, *about, mine):
            name, spec = merged.name, job.specs[merged.name]
            arrays[name], trace = finished(merged, sources, mesh, spec.dtype)
            if not trace.finite:
                raise sources.not_finite(name)
            records[name] = _record(spec, trace.changed, trace.delta_norm)
            if sources.disagree and spec.size:
                records[name]["sign_conflict"] = float(trace.conflicts)
            done += spec.nbytes
            watch(done, total)
    return arrays, {name: records[name] for name in job.specs}


def _copied(donor: View, name: str, mesh: Mesh) -> Any:
    """A tensor that is not merged; on the host if devices would cut it to 32 bits."""
    if _fits(donor.spec(name).dtype):
        return placed(donor, name, mesh)
    return np.array(donor[name])


def _record(spec: Spec, changed: Any, norm: Any) -> dict[str, Any]:
    return {
        "shape": list(spec.shape),
        "dtype": str(spec.dtype),
        "changed": float(changed),
        "delta_norm": float(norm),
    }


def _save(folder: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays, every process its shards."""
    import orbax.checkpoint as ocp

    tree = jax.tree.map(arrays.__getitem__, nested(arrays))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder, tree)


def _add_digests(folder: Path, records: Records) -> None:
    """Read what was written, each tensor in one process, and note its SHA-256."""
    found = np.zeros((len(records), 32), np.uint8)
    with hosts.together():
        written = open_tensors(folder)
        for i, name in hosts.share([*enumerate(records)]):
            found[i] = np.frombuffer(bytes.fromhex(digest(written[name])), np.uint8)
    for name, each in zip(records, hosts.summed(found), strict=True):
        records[name]["sha256"] = each.tobytes().hex()
