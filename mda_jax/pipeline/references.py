"""What a reference to a model means: `model[@revision][+adapter[@revision]]`.

Names are those of local folders, or else of repositories on the Hugging Face hub.
"""

import re
from pathlib import Path
from typing import NamedTuple

from mda_jax.pipeline.errors import ConfigError


_DUPLICATES = ("consolidated*.safetensors",)  # of the weights, under other names
_REPOSITORY = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_REVISION = re.compile(r"[^@\s]+")


class _Kind(NamedTuple):
    """What a name is to lead to, and the files of it that are needed."""

    word: str
    weights: str  # the files of them; if there are none, those of `pickled`
    pickled: str
    others: tuple[str, ...]


_MODEL = _Kind(
    "model",
    "*.safetensors",
    "pytorch_model*.bin",
    (
        "*.json",
        "*.jinja",
        "*.model",
        "*.tiktoken",
        "*.txt",
        "*.py",
        "LICENSE*",
        "[0-9]_*/*",  # modules of sentence-transformers, with weights in any format
    ),
)
_ADAPTER = _Kind(
    "adapter",
    "adapter_model.safetensors",
    "adapter_model.bin",
    ("adapter_config.json",),
)


class Located(NamedTuple):
    """Where a model is, once everything has been found or fetched."""

    folder: Path  # or the file of its weights
    adapter: Path | None = None

    @property
    def path(self) -> Path:
        """Stands for the model with its adapter; what messages and reports show."""
        folder, adapter = self
        return folder if adapter is None else joined(folder, adapter)

    def is_same(self, other: "Located") -> bool:
        """Whether two references lead to one model with one adapter."""
        if self.adapter is None or other.adapter is None:
            alike = self.adapter is other.adapter
        else:
            alike = self.adapter.samefile(other.adapter)
        return alike and self.folder.samefile(other.folder)


def joined(folder: Path, adapter: Path) -> Path:
    """The path that stands for a model with an adapter.

    >>> str(joined(Path("models/a"), Path("loras/b")))
    'models/a+loras/b'
    """
    return Path(f"{folder}+{adapter}")


def locate(reference: str) -> Located:
    """Find what a reference names, on this machine or else on the hub.

    A folder of that very name comes first, whatever signs the name has. What is not
    here is fetched by `huggingface_hub` into its cache, and is taken from the cache
    alone if `HF_HUB_OFFLINE` is set.

    Args:
      reference: `model[@revision][+adapter[@revision]]`.

    Returns:
      Existing paths.

    Raises:
      ConfigError: there is no such model, it cannot be fetched, or the reference
        cannot be read.
    """
    if _here(reference) or "+" not in reference:
        return Located(_found(reference, _MODEL))
    model, adapter = _halves(reference)
    return Located(_found(model, _MODEL), _found(adapter, _ADAPTER))


def _halves(reference: str) -> tuple[str, str]:
    """Model and adapter, split where most of the halves are folders here."""
    signs = [i for i, sign in enumerate(reference) if sign == "+"]
    splits = [(reference[:i], reference[i + 1 :]) for i in signs]
    best = max(splits, key=lambda halves: sum(map(_here, halves)))
    for half in best:
        if "+" in half and not _here(half):
            raise ConfigError(
                f"model {reference!r}: {half!r} is no folder, and a model takes one"
                " adapter; expected model+adapter. Merge the first adapter before."
            )
    return best


def _found(name: str, kind: _Kind) -> Path:
    """The folder of a name; its files are fetched if it is not here."""
    if _here(name):
        return _local(name)
    repository, at, revision = name.partition("@")
    if at and _here(repository):
        raise ConfigError(
            f"{kind.word} {name!r}: {repository!r} is a folder here, which has no"
            f" revisions; leave out '@{revision}'."
        )
    if not _REPOSITORY.fullmatch(repository) or (
        at and not _REVISION.fullmatch(revision)
    ):
        raise ConfigError(
            f"{kind.word} {name!r}: no such folder; give a folder, or a repository of"
            " the hub as owner/name or owner/name@revision."
        )
    return _fetched(repository, revision or None, kind)


def _fetched(repository: str, revision: str | None, kind: _Kind) -> Path:
    """The folder in the hub's cache that has the files."""
    try:
        import huggingface_hub
    except ImportError as e:
        raise ConfigError(
            f"{kind.word} {repository!r}: no such folder; to fetch it from the hub, pip"
            " install 'mda-jax[hub]', or download it and give its folder."
        ) from e
    try:
        for weights in (kind.weights, kind.pickled):
            folder = Path(
                huggingface_hub.snapshot_download(
                    repository,
                    revision=revision,
                    allow_patterns=[weights, *kind.others],
                    ignore_patterns=list(_DUPLICATES),
                )
            )
            if any(folder.glob(weights)):
                break
        return folder
    except Exception as e:  # whatever the hub has to say
        said = " ".join(str(e).split()) or type(e).__name__
        raise ConfigError(
            f"{kind.word} {repository!r}: no such folder, and the hub does not give it:"
            f" {said}"
        ) from e


def _here(name: str) -> bool:
    return bool(name) and _local(name).exists()


def _local(name: str) -> Path:
    return Path(name).expanduser()
