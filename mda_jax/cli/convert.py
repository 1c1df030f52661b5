"""`mda-jax convert`: a checkpoint of PyTorch into Flax, and back."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mda_jax.cli.errors import Debug, one_line_errors, told_warnings
from mda_jax.cli.memory import return_freed_memory


if TYPE_CHECKING:
    from mda_jax.converters import Checkpoint

Model = Annotated[
    str, typer.Argument(help="Folder or file of a model, or its name on the hub.")
]


class Target(StrEnum):
    """What to write."""

    TORCH = "torch"
    FLAX = "flax"
    ORBAX = "orbax"


_FORMATS = {
    Target.FLAX: "msgpack",
    Target.ORBAX: "orbax",
}


def convert(
    src: Model,
    dst: Annotated[Path, typer.Argument(help="Folder to create.")],
    to: Annotated[
        Target,
        typer.Option(
            help="torch: model.safetensors, or the files that SRC was made from; flax:"
            " flax_model.msgpack; orbax: the folder params."
        ),
    ],
    dialect: Annotated[
        str | None,
        typer.Option(
            help="Names and layouts to write. For PyTorch: hub, timm, torchvision,"
            " open_clip ...; for Flax: nnx (our models), scanned, head_split, hf_flax,"
            " big_vision ... A wrong one lists those of the family."
        ),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="safetensors, pytorch, msgpack, npz or orbax."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace DST once it is complete.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print warnings and errors only.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Convert the model SRC into the new folder DST."""
    return_freed_memory()
    with one_line_errors(debug=debug), told_warnings():
        from mda_jax import converters

        source = opened(src)
        if to is Target.TORCH:
            made = converters.to_torch(source, dialect=dialect)
        else:
            made = converters.in_dialect(source, dialect or "nnx")
        converters.save(made, dst, format or _FORMATS.get(to), force=force)
    if not quiet:
        print(
            f"{len(made.tensors)} tensors of {made.family} in {dst}:"
            f" {source.dialect} -> {made.dialect}"
        )


def opened(name: str) -> "Checkpoint":
    """The checkpoint of a folder, of a file, or of a name on the hub."""
    from mda_jax import converters
    from mda_jax.pipeline.errors import ConfigError
    from mda_jax.pipeline.references import locate

    located = locate(name)
    if located.adapter is not None:
        raise ConfigError(f"{name}: has an adapter; merge it into its model first.")
    return converters.load(located.folder)
