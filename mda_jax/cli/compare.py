"""`mda-jax compare`: two checkpoints side by side."""

from typing import TYPE_CHECKING, Annotated

import typer

from mda_jax.cli.convert import Model, opened
from mda_jax.cli.errors import FAILED, Debug, one_line_errors, told_warnings


if TYPE_CHECKING:
    from mda_jax.converters.compare import Difference
    from mda_jax.converters.formats import Spec

_SHOWN = 20


def compare(
    a: Model,
    b: Model,
    atol: Annotated[
        float, typer.Option(min=0, help="Difference that counts as none.")
    ] = 0.0,
    rtol: Annotated[
        float, typer.Option(min=0, help="The same, as a part of the number in B.")
    ] = 0.0,
    logits: Annotated[
        bool,
        typer.Option(
            "--logits",
            help="Compare what our Flax models say with these weights, too.",
        ),
    ] = False,
    debug: Debug = False,
) -> None:
    """Compare A and B, bit for bit unless a tolerance is given.

    They may be of different formats and dialects. The exit code is 1 if they differ.
    """
    with one_line_errors(debug=debug):
        from mda_jax.converters import compare as compared

        with told_warnings():
            one, other = opened(a), opened(b)
            tensors = compared.common(one, other)
        found = list(compared.differences(*tensors, rtol=rtol, atol=atol))
        for each in found[:_SHOWN]:
            print(_line(each))
        if len(found) > _SHOWN:
            print(f"... and {len(found) - _SHOWN} more")
        total = len({*tensors[0], *tensors[1]})
        differ = bool(found)
        print(f"{len(found) or 'none'} of {total} tensors differ")
        if logits:
            for name, (apart, size) in compared.outputs(one, other).items():
                print(f"{name}: differs by {apart:.3g} where {size:.3g} is the largest")
                differ |= apart > atol + rtol * size
    if differ:
        raise typer.Exit(FAILED)


def _line(difference: "Difference") -> str:
    name, one, other, entries, largest = difference
    if one is None or other is None or not entries:
        return f"{name}: {_told(one)} in A, {_told(other)} in B"
    return f"{name}: {entries} of {one.size} entries differ, by {largest:.3g} at most"


def _told(spec: "Spec | None") -> str:
    return "missing" if spec is None else f"{spec.dtype.name} {list(spec.shape)}"
