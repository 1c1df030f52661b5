import json

import pytest
from typer.testing import CliRunner

from mda_jax import methods
from mda_jax.cli import app
from mda_jax.cli.demo import SHOWN


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_score_writes_what_it_prints_and_uses_earlier_settings(tmp_path):
    earlier, file = tmp_path / "earlier.json", tmp_path / "scores.json"
    earlier.write_text('{"methods": {"task_arithmetic": {"hyper": {"scale": 0.1}}}}')
    given = ("--methods", "task_arithmetic", "--settings", earlier, "--json", file)
    result = run("glyphs", "score", *given)
    assert result.exit_code == 0, result.output
    scores = json.loads(file.read_text())
    (found,) = scores["methods"].values()
    assert f"{found['absolute']:.3f}" in result.stdout
    assert found["hyper"] == {"scale": 0.1} and "trying" not in result.stdout
    assert list(scores["individual"]) == scores["tasks"]


@pytest.mark.parametrize(
    "arguments, text",
    [
        (("score", "--suite", "9"), "no suite '9'"),
        (("score", "--methods", "tsv,foo"), "no method 'foo'"),
        (("score", "--settings", "pyproject.toml"), "holds no scores"),
        (("adapt", "--suite", "9"), "no suite '9'"),
        (("geometry", "--suite", "unseen"), "no experts to merge; use 8, 14 or 20"),
        (("geometry", "--methods", "foo"), "no method 'foo'"),
        (("train", "klingon"), "nothing called 'klingon'"),
    ],
)
def test_wrong_names_are_usage_errors(arguments, text):
    result = run("glyphs", *arguments)
    assert result.exit_code == 2 and text in result.stderr
    assert result.stderr.count("\n") == 1


def test_finished_experts_are_kept(tmp_path):
    (tmp_path / "digits.safetensors").write_bytes(b"finished")
    result = run("glyphs", "train", "digits", "--out", tmp_path)
    assert result.exit_code == 0 and "already in" in result.stdout
    assert (tmp_path / "digits.safetensors").read_bytes() == b"finished"


@pytest.mark.slow
def test_demo_scores_and_draws(tmp_path):
    result = run("demo", "--out", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    scores = json.loads((tmp_path / "demo" / "scores.json").read_text())
    assert set(scores["methods"]) == set(SHOWN.split(",")) <= set(methods.names)
    files = {path.name for path in (tmp_path / "demo").iterdir()}
    assert files == {
        *("pictures.png", "methods.png", "tasks.png"),
        *("report.html", "scores.json"),
    }
