"""What a merged folder says about itself: manifest, model card, configuration."""

import hashlib
import io
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mda_jax.converters.formats import Tensors, header_text


MANIFEST, CARD, CONFIG = "merge_manifest.json", "README.md", "mergekit_config.yml"
_PACKAGES = ("mda-jax", "jax", "jaxlib", "numpy")


def inputs(
    models: Mapping[Path, Tensors], *, whole: bool
) -> dict[str, dict[str, dict[str, Any]]]:
    """Model -> file that decides its weights -> its size and digests.

    Args:
      models: the models that were merged.
      whole: whether weight files are read once more, for the digest of all their
        bytes; otherwise it is that of the header, which has the name, type, shape and
        place of every tensor (and in PyTorch's files a checksum of it).
    """
    return {
        str(path): {file.name: _input(file, whole=whole) for file in model.files}
        for path, model in models.items()
    }


def versions() -> dict[str, str]:
    """Of the packages that decide the result."""
    return {name: version(name) for name in _PACKAGES}


def write_manifest(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest."""
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration, under the name that mergekit gives it."""
    (folder / CONFIG).write_text(_yaml(config), encoding="utf-8")


def write_card(folder: Path, method: str, config: Mapping[str, Any]) -> None:
    """Write the model card, with the front matter that the hub reads."""
    models = _models(config)
    front = {
        "base_model": models,
        "library_name": "transformers",
        "tags": ["merge", "mda-jax", "mergekit"],
    }
    listed = "\n".join(f"- {name}" for name in models)
    text = (
        f"---\n{_yaml(front)}---\n\n# {folder.name.removesuffix('.partial')}\n\n"
        f"Merged with [mda-jax](https://pypi.org/project/mda-jax/) {version('mda-jax')}"
        f" by the method `{method}` from\n\n{listed}\n\n"
        f"## Configuration\n\n```yaml\n{_yaml(config)}```\n"
    )
    (folder / CARD).write_text(text, encoding="utf-8")


def _models(node: Any) -> list[str]:
    """Every model that a configuration names, in order."""
    found: dict[str, None] = {}
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key in ("model", "base_model") and isinstance(value, str):
                found[value] = None
            else:
                found |= dict.fromkeys(_models(value))
    elif isinstance(node, list):
        for each in node:
            found |= dict.fromkeys(_models(each))
    return list(found)


def _input(file: Path, *, whole: bool) -> dict[str, Any]:
    is_weights, digests = file.suffix != ".json", {}
    if is_weights:
        digests["header_sha256"] = hashlib.sha256(header_text(file)).hexdigest()
    if whole or not is_weights:
        with file.open("rb") as opened:
            digests["sha256"] = hashlib.file_digest(opened, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, **digests}


def _yaml(content: Mapping[str, Any]) -> str:
    out = io.StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(dict(content), out)
    return out.getvalue()
