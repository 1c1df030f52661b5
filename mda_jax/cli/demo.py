"""`mda-jax demo`: the main job on experts that come with the package."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mda_jax.cli.errors import Debug, one_line_errors
from mda_jax.cli.tables import print_scores


SHOWN = "linear,task_arithmetic,ties,iso_c,tsv,mda"  # what a minute is enough for


def demo(
    out: Annotated[Path, typer.Option(help="Folder for figures and report.")] = Path(
        "mda-jax-demo"
    ),
    seed: Annotated[int, typer.Option(help="Decides the pictures.")] = 0,
    methods: Annotated[str, typer.Option(help="`all`, or names with commas.")] = SHOWN,
    debug: Debug = False,
) -> None:
    """Merge 8 trained experts with several methods, score them, draw a report."""
    with one_line_errors(debug=debug):
        from mda_jax.glyphs import report, score, tune

        scores = score.score(
            "8",
            score.methods_named(methods),
            seed=seed,
            test_size=200,
            validation_size=100,
            rounds=tune.scale_only,
            report=typer.echo,
        )
        print_scores(scores)
        paths = report.write(scores, out)
        paths.append(out / "scores.json")
        paths[-1].write_text(json.dumps(scores, indent=1) + "\n")
        for path in paths:
            typer.echo(f"wrote {path}")
