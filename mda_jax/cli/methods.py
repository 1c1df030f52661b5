"""`mda-jax methods`: what can be merged with, and how each method works."""

import inspect
from typing import Annotated

import typer

from mda_jax.cli.errors import Debug, one_line_errors


def methods(
    name: Annotated[str | None, typer.Argument(help="Describe one method.")] = None,
    debug: Debug = False,
) -> None:
    """List the merge methods, or describe one in full."""
    with one_line_errors(debug=debug):
        if name is None:
            _list()
        else:
            _describe(name)


def _list() -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from mda_jax import methods

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("method", no_wrap=True)
    table.add_column("what it does")
    for name in methods.names:
        summary = inspect.getdoc(getattr(methods, name)) or ""
        table.add_row(name, summary.split("\n")[0])
    Console().print(table)


def _describe(name: str) -> None:
    from mda_jax import methods
    from mda_jax.pipeline.document import nearest
    from mda_jax.pipeline.errors import ConfigError

    if name not in methods.names:
        hint = nearest(name, methods.names)
        raise ConfigError(f"no merge method {name!r}; {hint}.")
    method = getattr(methods, name)
    arguments = [a.replace(annotation=a.empty) for a in _arguments(method)]
    typer.echo(f"{name}{inspect.Signature(arguments)}\n\n{inspect.getdoc(method)}")


def _arguments(method: object) -> list[inspect.Parameter]:
    return list(inspect.signature(method).parameters.values())  # type: ignore[arg-type]
