"""What a merge says about itself, and the files besides its weights."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mda_jax.pipeline.chat import write_template
from mda_jax.pipeline.coverage import coverage
from mda_jax.pipeline.job import Job
from mda_jax.pipeline.journal import Records
from mda_jax.pipeline.manifest import versions, write_card, write_config, write_manifest
from mda_jax.pipeline.report import Report
from mda_jax.pipeline.sidecars import copy_sidecars
from mda_jax.pipeline.tokenizer import write_aligned


def identity_of(job: Job, *more: Any) -> str:
    """A digest of all that decides the result: the merge, and what else is given."""
    stamps = [
        (str(file), now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        for model in job.models.values()
        for file in model.files
        for now in [file.stat()]
    ]
    decisive = (
        job.config,
        job.naming.document.data,
        job.arithmetic,
        *more,
        repr(job.plan),
        repr(job.specs),
        stamps,
        job.tokens.digest,
        versions(),
    )
    text = json.dumps(decisive, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def report_of(
    job: Job, target: Path, files: list[Path], warnings: list[str], start: float
) -> Report:
    """What happened to every tensor.

    Args:
      job: the merge.
      target: the new folder.
      files: those beside the weights.
      warnings: one line each.
      start: when the merge began, by `time.perf_counter`.
    """
    about = job.rules, job.dropped, job.tied, files, warnings
    return Report(target, job.recipe.method, *about, time.perf_counter() - start)


def unchanged(job: Job, records: Records) -> list[str]:
    """A warning, if no weight of the donor has changed."""
    if job.is_sliced or any(record["changed"] for record in records.values()):
        return []
    return [f"the merged weights equal those of {job.donor}, all."]


def write_sidecars(job: Job, folder: Path, *, tokenizer: bool) -> list[Path]:
    """Write the files besides the weights, into the new folder.

    Args:
      job: the merge.
      folder: an existing one.
      tokenizer: copy the tokenizer's files; one that is asked for is always written.

    Returns:
      Their relative paths.
    """
    built, files = job.tokens.alignment, []
    if job.donor.is_dir():
        noted = job.dtype, job.layers, job.tokens.rows
        copy = tokenizer and built is None
        files += copy_sidecars(job.donor, folder, *noted, tokenizer=copy)
    if built is not None:
        files += write_aligned(built, job.donor, folder)
    if job.template is not None:
        files.append(write_template(job.template, folder))
    return list(dict.fromkeys(files))


def describe(
    job: Job,
    folder: Path,
    report: Report,
    records: Records,
    facts: Mapping[str, Any],
    *,
    card: bool,
) -> None:
    """Write what the folder says about itself: manifest, configuration, card.

    Args:
      job: the merge.
      folder: an existing one.
      report: of the merge.
      records: what is known of every tensor.
      facts: what else the manifest is to have.
      card: write a model card.
    """
    rules = report.rules
    content = {
        "config": job.config,
        "names": job.naming.document.data,
        "arithmetic": job.arithmetic,
        "versions": versions(),
        **facts,
        "coverage": coverage(job, set(records)),
        "tensors": {n: {"rule": rules[n], **r} for n, r in records.items()},
        "dropped": report.dropped,
        "tied": report.tied,
        "warnings": report.warnings,
    }
    write_manifest(folder, content)
    write_config(folder, job.config)
    if card:
        write_card(folder, report.method, job.config)
