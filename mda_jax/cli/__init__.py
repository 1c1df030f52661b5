"""The `mda-jax` command: one file per subcommand.

Nothing heavy is imported here, so that `--help` answers at once: commands import what
they need when they run.
"""

import typer

from mda_jax.cli import glyphs
from mda_jax.cli.compare import compare
from mda_jax.cli.convert import convert
from mda_jax.cli.demo import demo
from mda_jax.cli.estimate import estimate
from mda_jax.cli.inspect import inspect
from mda_jax.cli.merge import merge
from mda_jax.cli.mergekit import with_mergekits_options
from mda_jax.cli.methods import methods
from mda_jax.cli.plan import plan
from mda_jax.cli.threads import one_thread_for_lapack


app = typer.Typer(
    help="Merge fine-tuned models into one.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(compare)
app.command()(convert)
app.command()(demo)
app.command()(estimate)
app.command()(inspect)
app.command()(with_mergekits_options(merge))
app.command()(methods)
app.command()(plan)
app.add_typer(glyphs.app, name="glyphs")


@app.callback()
def _several_commands() -> None:
    """Merge fine-tuned models into one."""


def main() -> None:
    """Run the command line."""
    one_thread_for_lapack()
    app(prog_name="mda-jax")
