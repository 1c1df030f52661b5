"""mergekit's options that have no meaning here: accepted, with a word."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from mda_jax.cli.errors import warn


_DEVICE = "JAX picks the device; see JAX_PLATFORMS"
_MEMORY = "tensors are always read one after the other"
_FORMAT = "weights are written as safetensors"
_THREADS = "JAX uses all cores, and one thread writes"
_FLAGS = {
    "--allow-crimes": "models of any architecture merge, if their tensors fit",
    "--trust-remote-code": "no code of models is run",
    "--clone-tensors": "tied weights are stored once",
    "--cuda/--no-cuda": _DEVICE,
    "--multi-gpu/--no-multi-gpu": _DEVICE,
    "--gpu-rich/--no-gpu-rich": _DEVICE,
    "--read-to-gpu/--no-read-to-gpu": _MEMORY,
    "--low-cpu-memory/--no-low-cpu-memory": _MEMORY,
    "--lazy-unpickle/--no-lazy-unpickle": _MEMORY,
    "--safe-serialization/--no-safe-serialization": _FORMAT,
    "--async-write/--no-async-write": _THREADS,
    "--verbose": "see --debug",
    "--no-quiet": "progress is shown unless --quiet",
}
_VALUES = {
    "--device": _DEVICE,
    "--num-threads": _THREADS,
    "--write-threads": _THREADS,
    "--transformers-cache": "see HF_HOME",
    "--lora-merge-cache": "adapters are added while they are read",
    "--lora-merge-dtype": "adapters are added in float32",
}
_SHORT = {"--num-threads": "-j", "--verbose": "-v"}


def with_mergekits_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command, which also takes the options that mean nothing here."""
    kinds = dict.fromkeys(_FLAGS, bool) | dict.fromkeys(_VALUES, str)
    why = {_argument(name): (name, text) for name, text in (_FLAGS | _VALUES).items()}
    options = [_option(name, kind) for name, kind in kinds.items()]

    @wraps(command)
    def accepting(**given: Any) -> None:
        for argument, (name, text) in why.items():
            if given.pop(argument) is not None:
                warn(f"{name.split('/')[0]} changes nothing here: {text}.")
        command(**given)

    signature = inspect.signature(command)
    parameters = [*signature.parameters.values(), *options]
    accepting.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    accepting.__annotations__ |= {o.name: o.annotation for o in options}
    return accepting


def _option(name: str, kind: type) -> inspect.Parameter:
    names = (name, *filter(None, [_SHORT.get(name)]))
    return inspect.Parameter(
        _argument(name),
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=None,
        annotation=Annotated[kind | None, typer.Option(*names, hidden=True)],
    )


def _argument(name: str) -> str:
    return name.split("/")[0].strip("-").replace("-", "_")
