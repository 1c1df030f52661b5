"""`mda-jax glyphs`: train the benchmark's models, score merge methods on it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from mda_jax.cli.errors import Debug, one_line_errors
from mda_jax.cli.progress import progress
from mda_jax.cli.tables import print_scores


Methods = Annotated[str, typer.Option(help="`all`, or names with commas.")]
Seed = Annotated[int, typer.Option(help="Decides the pictures.")]
Draws = Annotated[int, typer.Option(min=1, help="How often to draw test pictures.")]
Json = Annotated[Path | None, typer.Option("--json", help="File for the scores.")]
Settings = Annotated[
    Path | None,
    typer.Option(help="Scores of an earlier run, whose settings are used again."),
]
app = typer.Typer(help="The glyph benchmark.", no_args_is_help=True)


@app.command()
def train(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="`base` or tasks; nothing means everything."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the weights; default: user cache.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Train the base and the experts; go on where an earlier call stopped."""
    with one_line_errors(debug=debug):
        from mda_jax.glyphs import store, workshop

        weights = store.Weights(out or store.cache_folder())
        for name in workshop.wanted(names or []):
            if weights.has(name):
                typer.echo(f"{name}: already in {weights.file(name)}")
                continue
            with progress(name) as watch:
                workshop.make(name, weights, watch)
            typer.echo(f"{name}: wrote {weights.file(name)}")


@app.command()
def score(
    suite: Annotated[str, typer.Option(help="8, 14, 20 or unseen.")] = "8",
    methods: Methods = "all",
    seed: Seed = 0,
    draws: Draws = 1,
    json_file: Json = None,
    weights: Annotated[
        Path | None, typer.Option(help="Folder with other weights than the shipped.")
    ] = None,
    settings: Settings = None,
    debug: Debug = False,
) -> None:
    """Merge the experts of a suite with every method and score on fresh pictures."""
    with one_line_errors(debug=debug):
        from mda_jax.glyphs import score as scoring, store

        scores = scoring.score(
            suite,
            scoring.methods_named(methods),
            seed=seed,
            draws=draws,
            weights=store.Weights(weights) if weights else store.SHIPPED,
            settings=_settings(settings),
            report=typer.echo,
        )
        print_scores(scores)
        _write(json_file, scores)


@app.command()
def adapt(
    suite: Annotated[str, typer.Option(help="8, 14 or 20.")] = "8",
    settings: Settings = None,
    seed: Seed = 0,
    draws: Draws = 5,
    steps: Annotated[int, typer.Option(min=2, help="Of each descent.")] = 100,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Learn coefficients and align features with unlabelled pictures, and score."""
    with one_line_errors(debug=debug):
        from mda_jax.glyphs import adapt as adapting

        found = adapting.adapt(
            suite=suite,
            settings=_settings(settings),
            seed=seed,
            draws=draws,
            steps=steps,
            report=typer.echo,
        )
        _write(json_file, found)


@app.command()
def geometry(
    suite: Annotated[str, typer.Option(help="8, 14 or 20.")] = "8",
    methods: Methods = "all",
    settings: Settings = None,
    seed: Seed = 0,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Merge at many scales; measure each merge, and what goes with its accuracy."""
    with one_line_errors(debug=debug):
        from mda_jax.glyphs import geometry as measuring, score as scoring

        found = measuring.geometry(
            scoring.methods_named(methods),
            suite=suite,
            settings=_settings(settings),
            seed=seed,
            report=typer.echo,
        )
        for name, each in found["correlations"].items():
            typer.echo(f"{name}: Spearman {each['spearman']['value']:.2f}")
        _write(json_file, found)


@app.command()
def loop(
    every: Annotated[
        str, typer.Option(help="Steps from one merge to the next; with commas.")
    ] = "10,25,100",
    methods: Annotated[
        str, typer.Option(help="Names of methods, or `diloco`; with commas.")
    ] = "linear,ties,iso_c,mda,diloco",
    tasks: Annotated[
        str, typer.Option(help="One replica for each; with commas.")
    ] = "upper,digits,greek,cyrillic",
    seeds: Annotated[int, typer.Option(min=1, help="Runs with other pictures.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Of every replica.")] = 400,
    json_file: Json = None,
    debug: Debug = False,
) -> None:
    """Train replicas, each on one task, merged every so many steps or at the end."""
    with one_line_errors(debug=debug):
        from mda_jax.glyphs import loop as looping

        found = looping.loop(
            methods.split(","),
            _numbers("--every", every),
            tasks=tasks.split(","),
            seeds=seeds,
            recipe=looping.RECIPE._replace(steps=steps),
            report=typer.echo,
        )
        _write(json_file, found)


def _numbers(flag: str, text: str) -> list[int]:
    from mda_jax.pipeline.errors import ConfigError

    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(
            f"glyphs: {flag} is {text!r}; give whole numbers with commas."
        ) from error


def _write(file: Path | None, found: dict) -> None:
    if file:
        file.write_text(json.dumps(found, indent=1) + "\n")


def _settings(file: Path | None) -> dict[str, dict[str, float]] | None:
    """The numbers of every method in the scores of an earlier run."""
    if file is None:
        return None
    from mda_jax.pipeline.errors import ConfigError

    try:
        methods = json.loads(file.read_text())["methods"]
        return {name: each["hyper"] for name, each in methods.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"glyphs: {file} holds no scores ({error}); give a file that"
            " `mda-jax glyphs score --json` wrote."
        ) from error
