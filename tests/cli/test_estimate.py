import json
import os
import re

import jax
import numpy as np
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


def content(seed):
    norms = [f"model.layers.{i}.input_layernorm.weight" for i in range(2)]
    return tensors(seed) | {norm: np.full(8, seed, np.float32) for norm in norms}


@pytest.fixture
def config(tmp_path):
    base, *models = [save(tmp_path / n, content(s)) for s, n in enumerate("oab")]
    file = tmp_path / "c.yml"
    listed = [{"model": str(model)} for model in models]
    todo = {"merge_method": "iso_c", "base_model": str(base), "models": listed}
    file.write_text(json.dumps(todo))
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
    model = 4 * sum(x.size for x in content(0).values())
    most = max(row.cost.held for row in found.rows)
    assert most + model / 8 <= found.held <= most + model
    counts = [re.search(r"\((\d+)\)$", row.tensors) for row in found.rows]
    for row, count in zip(found.rows, counts, strict=True):
        assert row.calls == (int(count[1]) if count and not row.whole else 1)
    assert any(row.calls > 1 for row in found.rows)
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
    todo = json.loads(config.read_text())
    todo["base_model"] += "x"
    config.write_text(json.dumps(todo))
    result = run(config, "--mesh", "8")
    assert result.exit_code != 0 and result.stderr.count("\n") == 1
