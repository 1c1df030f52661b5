import json
import os

import jax
import pytest
from folders import save, tensors
from jax.sharding import AxisType
from typer.testing import CliRunner

from mda_jax import engine, pipeline
from mda_jax.cli import app


@pytest.fixture(autouse=True)
def _same_environment_after(monkeypatch):
    for name in ("JAX_PLATFORMS", "XLA_FLAGS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.fixture
def config(tmp_path):
    base, *models = [save(tmp_path / n, tensors(s)) for s, n in enumerate("oab")]
    file = tmp_path / "c.yml"
    listed = [{"model": str(model)} for model in models]
    content = {"merge_method": "iso_c", "base_model": str(base), "models": listed}
    file.write_text(json.dumps(content))
    return file


def run(*arguments):
    return CliRunner().invoke(app, ["estimate", *map(str, arguments)])


def test_estimates_are_shown_as_such(config):
    result = run(config, "--mesh", "4x2")
    assert result.exit_code == 0, result.stderr
    assert "estimates for iso_c, for each of 8 devices" in result.stdout
    for chip in engine.ACCELERATORS:
        assert f"{chip.name}: estimate at least" in result.stdout
    assert "fits in 16 GiB" in result.stdout and "Not counted" in result.stdout


def test_the_figures_are_those_of_the_programs(config):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
    found = pipeline.estimate(config, mesh)
    assert all(row.cost.held for row in found.rows)
    chip = engine.ACCELERATORS[0]
    seconds = sum(row.calls * chip.seconds(row.cost) for row in found.rows)
    assert found.seconds(chip) == seconds > 0
    model = 4 * sum(x.size for x in tensors(0).values())
    most = max(row.cost.held for row in found.rows)
    assert most + model / 8 <= found.held <= most + model
    matrices = [row for row in found.rows if row.whole]
    assert matrices and all(row.cost.products for row in matrices)
    assert not any(row.cost.products for row in found.rows if not row.whole)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--mesh", "4y2"], "is no mesh"),
        (["--mesh", "3"], "mesh 3 has 3 places, but there are 8 devices"),
        ([], "--mesh"),
    ],
)
def test_a_wrong_mesh_is_refused_in_a_line(config, arguments, text):
    result = run(config, *arguments)
    assert result.exit_code == 2 and text in result.stderr


def test_a_missing_model_is_told_in_a_line(config):
    content = json.loads(config.read_text())
    content["base_model"] += "x"
    config.write_text(json.dumps(content))
    result = run(config, "--mesh", "8")
    assert result.exit_code != 0 and result.stderr.count("\n") == 1
