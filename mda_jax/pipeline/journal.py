"""What an unfinished merge has done: files whose tensors need not be merged again."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from mda_jax.converters.formats import FormatError, open_tensors
from mda_jax.converters.formats.folder import JOURNAL
from mda_jax.pipeline.errors import ConfigError


Records = dict[str, dict[str, Any]]  # tensor -> what is known of it


class Journal:
    """The finished files of a folder that is being filled."""

    def __init__(self, folder: Path, identity: str):
        """Read what an earlier attempt left, if there was one.

        Args:
          folder: the folder being filled.
          identity: digest of all that decides the result.

        Raises:
          ConfigError: the earlier attempt was another merge.
        """
        self._file, self._identity = folder / JOURNAL, identity
        self._finished: dict[str, Records] = {}
        if not self._file.is_file():
            return
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            same, finished = found["identity"] == identity, found["finished"]
        except (ValueError, KeyError, TypeError):
            return
        if not same:
            raise ConfigError(
                f"{folder}: holds an unfinished merge of another configuration or of"
                " other models; leave out --resume to start over."
            )
        self._finished = {f: r for f, r in finished.items() if holds(folder / f, r)}

    @property
    def finished(self) -> dict[str, Records]:
        """File -> its tensors."""
        return dict(self._finished)

    @property
    def records(self) -> Records:
        """The tensors of all finished files."""
        return {n: r for held in self._finished.values() for n, r in held.items()}

    def add(self, file: str, records: Records) -> None:
        """Note that a file is finished, and on disk."""
        self._finished[file] = records
        content = {"identity": self._identity, "finished": self._finished}
        new = self._file.with_suffix(".new")
        with new.open("w", encoding="utf-8") as opened:
            json.dump(content, opened)
            opened.flush()
            os.fsync(opened.fileno())
        new.replace(self._file)

    def remove(self) -> None:
        """End of the merge."""
        self._file.unlink(missing_ok=True)


def holds(path: Path, records: Records) -> bool:
    """Whether a file or folder has the tensors that were noted, bit for bit."""
    try:
        tensors = open_tensors(path)
    except (FormatError, OSError):
        return False
    return tensors.keys() == records.keys() and all(
        digest(tensors[name]) == records[name]["sha256"] for name in tensors
    )


def digest(array: np.ndarray) -> str:
    """The SHA-256 of an array in row-major order."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()
