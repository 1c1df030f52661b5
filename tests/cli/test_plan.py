import json

import pytest
from folders import save, task_arithmetic, tensors
from typer.testing import CliRunner

from mda_jax.cli import app


@pytest.fixture
def config(tmp_path):
    models = [save(tmp_path / n, tensors(s)) for s, n in enumerate(["base", "a"])]
    file = tmp_path / "c.yml"
    file.write_text(json.dumps(task_arithmetic(*models)))
    return file


def test_a_plan_is_shown(config):
    result = CliRunner().invoke(app, ["plan", str(config)])
    assert result.exit_code == 0
    assert "merged by task_arithmetic, weight 0.5" in result.stdout
    assert "model.norm.weight" in result.stdout and "reads " in result.stdout


def test_a_dry_run_is_a_plan(config, tmp_path):
    arguments = ["merge", str(config), str(tmp_path / "out"), "--dry-run"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0 and "merged by task_arithmetic" in result.stdout
    assert not (tmp_path / "out").exists()


def test_every_problem_has_its_line(config, tmp_path):
    content = json.loads(config.read_text())
    content["models"][0]["parameters"] = {"densty": 1, "wieght": 2}
    config.write_text(json.dumps(content))
    result = CliRunner().invoke(app, ["plan", str(config)])
    assert result.exit_code == 2 and result.stderr.count("\n") == 2
    assert "'densty'" in result.stderr and "'wieght'" in result.stderr
    result = CliRunner().invoke(app, ["merge", str(config), str(tmp_path / "out")])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "And 1 more; `mda-jax plan` shows them." in result.stderr


def test_the_arithmetic_is_told(config, tmp_path):
    content = json.loads(config.read_text()) | {"dtype": "bfloat16"}
    config.write_text(json.dumps(content))
    usual = CliRunner().invoke(app, ["plan", str(config)])
    assert "and so does --compat mergekit" in usual.stdout
    result = CliRunner().invoke(app, ["plan", str(config), "--compat", "mergekit"])
    assert result.exit_code == 0 and "and so does --compat" not in result.stdout
    assert "merged by task_arithmetic, all in bfloat16, weight 0.5" in result.stdout
    out = tmp_path / "out"
    arguments = [str(config), str(out), "--compat", "mergekit"]
    assert CliRunner().invoke(app, ["merge", *arguments]).exit_code == 0
    manifest = json.loads((out / "merge_manifest.json").read_text())
    assert manifest["arithmetic"] == ["bfloat16"]
    rules = {each["rule"] for each in manifest["tensors"].values()}
    assert rules == {"merged by task_arithmetic, all in bfloat16"}


def test_there_is_no_arithmetic_but_mergekits(config, tmp_path):
    for tool, method, told in (
        ("fusion_bench", "ties", "'mergekit'"),
        ("mergekit", "iso_c", ":1: mergekit has no 'iso_c'"),
    ):
        content = json.loads(config.read_text()) | {"merge_method": method}
        config.write_text(json.dumps(content))
        arguments = [str(config), str(tmp_path / "out"), "--compat", tool]
        result = CliRunner().invoke(app, ["merge", *arguments])
        assert result.exit_code == 2 and told in result.stderr
        assert not (tmp_path / "out").exists()
