"""The trained parameters as safetensors: `SHIPPED`, or a folder of your own."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np
import platformdirs
from jax.typing import ArrayLike

from mda_jax.converters import formats


def cache_folder() -> Path:
    """Where trained parameters go unless told otherwise: under the user's cache."""
    return platformdirs.user_cache_path("mda-jax") / "glyphs"


class Weights(NamedTuple):
    """A folder with `base`, `heads` and one expert for each task, as `.safetensors`."""

    folder: Path

    def base(self) -> dict:
        """Parameters of the pretrained encoder, a nested dict of float32 arrays."""
        return _nested(self._read("base"))

    def expert(self, task: str) -> dict:
        """Parameters of the encoder fine-tuned on one task."""
        return _nested(self._read(task))

    def head(self, task: str) -> np.ndarray:
        """The frozen head of a task: `[classes, 128]`, unit rows."""
        return self._read("heads")[task].astype(np.float32)

    def file(self, name: str) -> Path:
        """The file of `base`, `heads` or a task."""
        return self.folder / f"{name}.safetensors"

    def has(self, name: str) -> bool:
        """Whether that file is there."""
        return self.file(name).exists()

    def save(self, name: str, params: dict, origin: Mapping[str, str]) -> None:
        """Write parameters in bfloat16, replacing the file as a whole.

        Args:
          name: `base` or a task.
          params: a nested dict of arrays.
          origin: how they were made, for the file's metadata.
        """
        flat = flax.traverse_util.flatten_dict(_words(params), sep="/")
        small = {k: np.asarray(x).astype(ml_dtypes.bfloat16) for k, x in flat.items()}
        self._rewrite(name, small, origin)

    def save_heads(
        self, heads: Mapping[str, ArrayLike], origin: Mapping[str, str]
    ) -> None:
        """Write the heads in float32, replacing the file as a whole."""
        arrays = {task: np.asarray(x, np.float32) for task, x in heads.items()}
        self._rewrite("heads", arrays, origin)

    def _rewrite(
        self, name: str, tensors: Mapping[str, ArrayLike], origin: Mapping[str, str]
    ) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f".{name}.new"
        fresh.unlink(missing_ok=True)
        formats.write_file(fresh, tensors, metadata={"format": "pt", **origin})
        fresh.replace(self.file(name))

    def _read(self, name: str) -> formats.Tensors:
        if not self.has(name):
            raise FileNotFoundError(
                f"glyphs: {self.file(name)} is missing. Make it with"
                f" `mda-jax glyphs train {name} --out {self.folder}`."
            )
        return formats.open_tensors(self.file(name))


SHIPPED = Weights(Path(__file__).with_name("weights"))


def _words(tree: dict) -> dict:
    """The same tree with every key a string."""
    return {str(k): _words(v) if isinstance(v, dict) else v for k, v in tree.items()}


def _nested(flat) -> dict:
    """Slash-joined names back to nested dicts, with numbers as list positions."""
    paths = {tuple(map(_key, name.split("/"))): flat[name] for name in flat}
    tree = flax.traverse_util.unflatten_dict(paths)
    return jax.tree.map(lambda x: np.asarray(x, np.float32), tree)


def _key(part: str) -> str | int:
    return int(part) if part.isdigit() else part
