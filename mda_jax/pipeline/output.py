"""Merged entries on their way to disk: checked, measured, written by a thread."""

import hashlib
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import Any

import jax.numpy as jnp
import numpy as np

from mda_jax.converters.formats import SafetensorsWriter, Spec
from mda_jax.pipeline.bits import SLICE, all_finite, blocks, fastest
from mda_jax.pipeline.sources import Piece, Sources
from mda_jax.pipeline.streaming import WAITING


@dataclass
class _Record:
    """What is known of a tensor so far."""

    digest: Any = field(default_factory=hashlib.sha256)
    changed: int = 0  # entries that differ from the donor's
    squares: float = 0.0  # of the differences
    conflicts: int = 0  # entries about whose sign experts disagree
    looked_at: int = 0  # entries, for that


class Output:
    """Writes chunks in the order they come, while the next ones are merged."""

    def __init__(self, writer: SafetensorsWriter, specs: dict[str, Spec]):
        self._writer, self._specs = writer, specs
        self._records: dict[str, _Record] = {}
        self._thread = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def put(self, piece: Piece, entries: np.ndarray, sources: Sources) -> None:
        """Hand over the next entries of a tensor.

        Raises:
          MergeError: these or earlier ones are not finite.
          OSError: earlier ones could not be written.
        """
        while len(self._waiting) >= WAITING:
            self._waiting.popleft().result()
        task = self._thread.submit(self._write, piece, entries, sources)
        self._waiting.append(task)

    def finish(self, file: str) -> dict[str, dict[str, Any]]:
        """Flush a file; its tensors with their digests and statistics."""
        while self._waiting:
            self._waiting.popleft().result()
        self._writer.flush(file)
        records, self._records = self._records, {}
        return {name: _summary(r, self._specs[name]) for name, r in records.items()}

    def __enter__(self) -> "Output":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _write(self, piece: Piece, entries: np.ndarray, sources: Sources) -> None:
        record = self._records.setdefault(piece.tensor, _Record())
        for start in range(0, max(1, entries.size), SLICE):
            part = entries[start : start + SLICE]
            with np.errstate(over="ignore"):
                part = part.astype(self._specs[piece.tensor].dtype, copy=False)
            first = piece.part.start + start
            before = slice(first, first + part.size)
            if not _measure(record, part, sources.donor.entries(piece.tensor, before)):
                raise sources.not_finite(piece.tensor)
            if piece.tensor in sources.dtypes and sources.disagree:
                found, looked_at = sources.conflicts(Piece(piece.tensor, before))
                record.conflicts += found
                record.looked_at += looked_at
            record.digest.update(part.view(np.uint8))
            self._writer.write_part(piece.tensor, part)


@cache
def seconds_per_entry() -> tuple[float, float]:
    """What it takes to digest, and to compare, an entry of bfloat16; from a trial."""
    entries = np.ones(SLICE, jnp.bfloat16)
    digest = fastest(lambda: hashlib.sha256(entries.view(np.uint8).data))
    compare = fastest(lambda: _measure(_Record(), entries, entries))
    return digest / SLICE, compare / SLICE


def _measure(record: _Record, merged: np.ndarray, donor: np.ndarray) -> bool:
    """Compare some entries with the donor's; whether they are all finite."""
    finite = True
    for part in blocks(merged.size):
        with np.errstate(over="ignore", invalid="ignore"):
            change = merged[part].astype(np.float32) - donor[part].astype(np.float32)
            squares = float(np.square(change).sum())
        if not np.isfinite(squares):
            finite = finite and all_finite(merged[part])
            squares = float(np.square(change, dtype=np.float64).sum())
        record.changed += int(np.count_nonzero(change != 0))
        record.squares += squares
    return finite


def _summary(record: _Record, spec: Spec) -> dict[str, Any]:
    size = max(1, spec.size)
    summary = {
        "shape": list(spec.shape),
        "dtype": str(spec.dtype),
        "sha256": record.digest.hexdigest(),
        "changed": record.changed / size,
        "delta_norm": record.squares**0.5,
    }
    if record.looked_at:
        summary["sign_conflict"] = record.conflicts / record.looked_at
    return summary
