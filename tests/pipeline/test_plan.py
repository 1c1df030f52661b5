"""What a merge would do, before it does it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from folders import read, save, task_arithmetic, tensors

from mda_jax import pipeline
from mda_jax.pipeline import ConfigError, MergeError, streaming
from mda_jax.pipeline.job import settle


@pytest.fixture
def models(tmp_path):
    return [save(tmp_path / n, tensors(s)) for s, n in enumerate(["base", "a", "b"])]


def test_rows_say_what_run_does(models, tmp_path):
    config = task_arithmetic(*models, out_dtype="bfloat16")
    config["models"][0]["parameters"] = {"weight": [{"filter": "mlp", "value": 2}]}
    config["parameters"] = {"weight": 0.5, "lambda": 0.25}
    plan = pipeline.plan(config)
    rules = {row.tensors: row.rule for row in plan.rows}
    usual = "merged by task_arithmetic, weight 0.5/0.5, lambda 0.25"
    mlp = "model.layers.*.mlp.up_proj.weight"
    assert rules.pop(mlp) == usual.replace("0.5/0.5", "2/0.5")
    assert set(rules.values()) == {usual} and len(rules) == len(tensors(0)) - 1
    assert {(row.read, row.written) for row in plan.rows} == {("float32", "bfloat16")}
    size = sum(x.nbytes for x in tensors(0).values())
    assert (plan.bytes_read, plan.bytes_written) == (3 * size, size // 2)
    report = pipeline.run(config, tmp_path / "out")
    assert (report.dropped, report.tied) == (plan.dropped, plan.tied)


def test_layers_are_counted_in_one_row(tmp_path):
    stack = {f"h.{i}.{n}": np.ones(2, np.float32) for i in range(3) for n in "xy"}
    folder = save(tmp_path / "m", stack)
    half = {"model": str(folder), "layer_range": [0, 2]}
    config = {"merge_method": "passthrough", "slices": [{"sources": [half]}]}
    plan = pipeline.plan(config)
    assert [row.tensors for row in plan.rows] == ["h.*.x (2)", "h.*.y (2)"]
    assert (
        f"{folder}: 2 tensors left out: no part of the output takes it"
        in plan.summary()
    )


def test_all_problems_of_a_kind_are_told_at_once(models):
    config = task_arithmetic(*models)
    for model, wrong in zip(config["models"], ("densty", "wieght"), strict=True):
        model["parameters"] = {wrong: 1}
    with pytest.raises(ConfigError, match="densty") as caught:
        pipeline.plan(config)
    assert ["wieght" in str(each) for each in caught.value.others] == [True]


def test_all_models_that_do_not_fit_are_told(tmp_path):
    folders = [save(tmp_path / "base", tensors(0))]
    for name in ("a", "b"):
        odd = tensors(1) | {"odd.weight": np.ones(2, np.float32)}
        folders.append(save(tmp_path / name, odd))
    with pytest.raises(MergeError, match="/a: 1 tensors do not match") as caught:
        pipeline.plan(task_arithmetic(*folders))
    assert [str(each).split(":")[0] for each in caught.value.others] == [
        str(tmp_path / "b")
    ]


def test_only_headers_are_read(models):
    for model in models:
        file = model / "model.safetensors"
        content = file.read_bytes()
        length = 8 + int.from_bytes(content[:8], "little")
        file.write_bytes(content[:length] + b"\xff" * (len(content) - length))
    assert pipeline.plan(task_arithmetic(*models)).rows


def test_what_differs_from_mergekit_is_told(models):
    config = task_arithmetic(*models, merge_method="ties", dtype="bfloat16")
    told = " ".join(pipeline.plan(config).summary())
    assert "unlike mergekit: of equal magnitudes" in told
    assert "arithmetic is float32" in told
    assert not pipeline.plan(task_arithmetic(*models)).differences


def test_a_plan_is_made_of_plain_values(models):
    assert json.dumps(pipeline.plan(task_arithmetic(*models)))


CHILD = """
import json, sys
from mda_jax import pipeline
from mda_jax.cli.memory import return_freed_memory
return_freed_memory()
print(pipeline.plan(json.loads(sys.argv[1])).peak_memory)
pipeline.run(json.loads(sys.argv[1]), sys.argv[2])
with open("/proc/self/status") as status:
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
print(1024 * int(peak))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("method", ["task_arithmetic", "dare_linear", "tatr"])
def test_memory_is_predicted(tmp_path, method):
    """From above, and by less than half too much: results seldom wait for the disk."""
    table = np.tile(np.float32(np.random.default_rng(0).normal(size=512)), (16_000, 1))
    names = [f"layers.{i}.embed_tokens.weight" for i in range(2)]
    folders = [save(tmp_path / n, dict.fromkeys(names, table)) for n in "abc"]
    config = task_arithmetic(*folders, merge_method=method)
    for model in config["models"]:
        model.pop("parameters" if method == "tatr" else "none", None)
    command = [sys.executable, "-c", CHILD, json.dumps(config), str(tmp_path / "out")]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    predicted, held = map(int, child.stdout.split())
    assert 0.9 * held <= predicted <= 1.5 * held


def test_time_grows_with_the_number_of_layers_and_with_the_work(tmp_path):
    def seconds(layers, **top):
        content = {f"layers.{i}.w": np.ones((512, 4096), np.float32) for i in layers}
        names = (f"{n}{len(layers)}{len(top)}" for n in "abc")
        folders = [save(tmp_path / n, content) for n in names]
        return pipeline.plan(task_arithmetic(*folders, **top)).seconds

    one, four = seconds(range(1)), seconds(range(4))
    assert 0 < one and four == pytest.approx(4 * one, rel=0.2)  # the last run is padded
    assert seconds(range(4), merge_method="ties") > four


def test_a_merge_that_needs_too_much_is_refused(models):
    with pytest.raises(
        ConfigError, match=r"hold .* for '.*weight', of which it needs \("
    ):
        pipeline.run(task_arithmetic(*models, merge_method="tsv"), "no", max_memory=1)


def test_a_large_tensor_needs_no_more_than_its_rows(models, tmp_path, monkeypatch):
    """What is merged by rows has a lower peak, and the same masks."""
    config = task_arithmetic(*models, merge_method="dare_linear")
    config["parameters"] = {"density": 0.5, "rescale": False}
    pipeline.run(config, tmp_path / "whole")
    monkeypatch.setattr(streaming, "BUDGET", 4 * 3 * 5 * 8)  # 5 rows of 8, 3 models
    job = settle(config, None)
    ((part, sources),) = job.parts
    each = streaming.calls(sources, part.steps, job.recipe.elementwise, job.plan)
    assert {call.base.shape for call in each} == {(4, 8), (8,)}
    pipeline.run(config, tmp_path / "rows")
    whole, rows = read(tmp_path / "whole"), read(tmp_path / "rows")
    for name, want in whole.items():
        np.testing.assert_array_equal(rows[name], want)
