"""A merge on a mesh is the merge on one device, whoever reads and writes what."""

import hashlib
import json
import os
import socket
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from folders import read, save, task_arithmetic, tensors
from helpers import grid
from jax.sharding import PartitionSpec as P
from ruamel.yaml import YAML
from samples import assert_same

from mda_jax.converters.formats import write_file, write_folder, write_orbax
from mda_jax.pipeline import MergeError, mesh_of, run, run_to_orbax
from mda_jax.pipeline.mesh import spread


HEAD = "lm_head.weight"
UP, ODD = "model.layers.0.mlp.up_proj.weight", "model.layers.0.odd.bias"
IDS, FREQUENCIES = "model.position_ids", "model.rotary_emb.inv_freq"


@pytest.fixture(autouse=True)
def _spread_all(monkeypatch):
    monkeypatch.setattr("mda_jax.pipeline.mesh.LEAST", 2)


def drawn(seed):
    """Of several types, some not divisible by eight, one with deltas of one size."""
    base, change = tensors(0), tensors(seed)
    found = {name: base[name] + np.float32(0.1) * change[name] for name in base}
    found[UP] = found[UP].astype(ml_dtypes.bfloat16)
    found[HEAD] = grid(0, (12, 8)) + grid(seed, (12, 8)).round()
    found[ODD] = np.linspace(0, seed, 7, dtype=np.float32)
    found[IDS] = np.arange(5)
    found[FREQUENCIES] = np.linspace(1, 0, 4, dtype=np.float32)
    return found


@pytest.fixture
def models(tmp_path):
    return [save(tmp_path / f"m{seed}", drawn(seed)) for seed in range(3)]


def save_adapter(path):
    """One of rank 3 for the queries."""
    path.mkdir()
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    up, down = np.random.default_rng(7).normal(size=(2, 8, 3)).astype(np.float32)
    factors = {f"{layer}.lora_A.weight": down.T, f"{layer}.lora_B.weight": up}
    write_file(path / "adapter_model.safetensors", factors)
    lora = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(lora))
    return path


def config(models, method, **parameters):
    return task_arithmetic(*models) | {
        "merge_method": method,
        "parameters": {"weight": 0.5, **parameters},
    }


def manifest(folder):
    return json.loads((folder / "merge_manifest.json").read_text())


def assert_near(got, want, *, ulps):
    """Equal but for so many float32 roundings of the largest entry, and the last."""
    assert got.keys() == want.keys()
    for name, array in want.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape
        if ulps == 0 or array.dtype.kind in "iu":
            assert got[name].tobytes() == array.tobytes(), name
        else:
            a, b = got[name].astype(np.float64), array.astype(np.float64)
            last = float(ml_dtypes.finfo(array.dtype).eps)
            bound = ulps * np.finfo(np.float32).eps + (last if last > 1e-3 else 0)
            assert np.abs(a - b).max() <= bound * np.abs(b).max(), name


def check_manifest(folder, plain):
    """The digests are of what was written; the rest is that of one device."""
    written, told = read(folder), manifest(folder)
    for name, record in told["tensors"].items():
        expected = manifest(plain)["tensors"][name]
        assert record["sha256"] == hashlib.sha256(written[name].tobytes()).hexdigest()
        assert record.keys() == expected.keys() and list(written)
        assert (
            record["dtype"] == expected["dtype"] and record["rule"] == expected["rule"]
        )
        for key in {"delta_norm", "sign_conflict"} & record.keys():
            assert record[key] == pytest.approx(expected[key], rel=1e-5)
    assert told["mesh"] == {"x": 4, "y": 2} and told["coverage"]


# Programs for other shardings may add in another order, and fuse products with sums:
# one rounding for each of k terms and the base. Of a spectrum the sums are of up to 16
# products, in a few dozen steps that each depend on the last.
@pytest.mark.parametrize(
    ("method", "parameters", "ulps"),
    [
        ("linear", {}, 0),
        ("ties", {"density": 0.3}, 0),
        ("ties", {"density": 0.3, "rescale": True}, 4),
        ("dare_ties", {"density": 0.5}, 4),
        ("mda", {}, 200),
        pytest.param("iso_c", {}, 200, marks=pytest.mark.slow),
        pytest.param("breadcrumbs", {"density": 0.5}, 0, marks=pytest.mark.slow),
        pytest.param("ties_global", {}, 4, marks=pytest.mark.slow),
        pytest.param("karcher", {}, 50, marks=pytest.mark.slow),
    ],
)
def test_the_same_as_on_one_device(models, tmp_path, method, parameters, ulps):
    todo = config(models, method, **parameters)
    if method == "linear":
        todo["models"].append({"model": todo["base_model"]})
    if method in ("iso_c", "mda", "ties_global", "karcher"):
        del todo["parameters"]
    if method in ("ties_global", "karcher"):
        todo["models"] = [{"model": each["model"]} for each in todo["models"]]
    run(todo, tmp_path / "plain", seed=3)
    mesh = mesh_of({"x": 4, "y": 2})
    run(todo, tmp_path / "torch", seed=3, mesh=mesh)
    report = run_to_orbax(todo, tmp_path / "orbax", mesh, seed=3)
    plain = read(tmp_path / "plain")
    assert_near(read(tmp_path / "torch"), plain, ulps=ulps)
    assert_near(read(tmp_path / "orbax"), plain, ulps=ulps)
    assert report.rules.keys() == plain.keys() and not report.warnings
    check_manifest(tmp_path / "orbax", tmp_path / "plain")
    assert (tmp_path / "orbax" / "config.json").is_file()
    assert not list(tmp_path.glob("*.partial"))


def test_what_is_computed_while_it_is_read(models, tmp_path):
    base, wide, plain = models
    content = drawn(1)
    for name in ("model.embed_tokens.weight", HEAD):
        content[name] = np.concatenate([content[name], content[name][:4]])
    wide = save(tmp_path / "wide", content)
    adapter = save_adapter(tmp_path / "adapter")
    todo = config([base, wide, f"{plain}+{adapter}"], "ties", density=0.4)
    todo |= {"dtype": "bfloat16"}
    run(todo, tmp_path / "plain", truncate_embeddings=True)
    mesh = mesh_of({"data": 8})
    run_to_orbax(todo, tmp_path / "out", mesh, truncate_embeddings=True)
    assert_same(read(tmp_path / "out"), read(tmp_path / "plain"))


def test_orbax_folders_go_in_too(models, tmp_path):
    for model in models:
        write_orbax(model / "params", read(model))
    todo = config(models, "ties", density=0.3)
    run(todo, tmp_path / "plain")
    for model in models:
        (model / "model.safetensors").unlink()
    run_to_orbax(todo, tmp_path / "out", mesh_of({"x": 2, "y": 2, "z": 2}))
    assert_same(read(tmp_path / "out"), read(tmp_path / "plain"))


def test_where_tensors_lie():
    mesh = mesh_of({"x": 4, "y": 2})
    specs = {
        (12, 8): P("x", "y"),
        (8, 64): P(None, ("x", "y")),
        (7, 2): P(None, "y"),
        (7,): P(None),
        (4,): P("y"),  # "x" would leave one entry
        (): P(),
        (0, 8): P(None, None),
    }
    assert {shape: spread(shape, mesh).spec for shape in specs} == specs


def test_what_cannot_be(models, tmp_path):
    mesh = mesh_of({"x": 8})
    damaged = drawn(2)
    damaged[UP][3, 1] = np.nan
    bad = save(tmp_path / "bad", damaged)
    for method in ("ties", "linear"):
        todo = config([models[0], models[1], bad], method)
        with pytest.raises(MergeError, match=f"{UP}.*{bad} has it already"):
            run_to_orbax(todo, tmp_path / "out", mesh)
    wide = {name: array.astype(np.float64) for name, array in drawn(0).items()}
    todo = config([save(tmp_path / "wide", wide), *models[1:]], "ties")
    with pytest.raises(MergeError, match=r"would be float64.*'dtype: float32'"):
        run_to_orbax(todo, tmp_path / "out", mesh)
    assert not list(tmp_path.glob("out*"))


SCRIPT = """
import sys

from mda_jax.cli import app
from mda_jax.pipeline import mesh, mesh_of, run_to_orbax

mesh.LEAST = 2
folder, port, process = sys.argv[1:]


def merge(config, out, *more):
    options = "--mesh 4x2 --out-format orbax".split()
    return app(
        ["merge", f"{folder}/{config}", f"{folder}/{out}", *options, *more],
        standalone_mode=False,
    )


join = f"--distributed --coordinator 127.0.0.1:{port} --processes 2 --process"
assert not merge("ties.yml", "ties", *join.split(), process)
run_to_orbax(f"{folder}/iso_c.yml", f"{folder}/iso_c", mesh_of({"x": 8}))
try:
    run_to_orbax(f"{folder}/broken{process}.yml", f"{folder}/out", mesh_of({"x": 8}))
except ValueError as error:
    print(error)
try:
    name = ("ties", "iso_c")[int(process)]
    run_to_orbax(f"{folder}/{name}.yml", f"{folder}/out", mesh_of({"x": 8}))
except ValueError as error:
    print(error)
"""


def in_two_processes(script, folder):
    """What they print; each has four devices."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port = opened.getsockname()[1]
    flags = "--xla_backend_optimization_level=0"
    flags += " --xla_force_host_platform_device_count=4"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, folder, str(port), str(process)],
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        printed = [process.communicate(timeout=120) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, printed, strict=True):
        assert process.returncode == 0, errors
    return [out for out, _ in printed]


def test_two_processes(models, tmp_path):
    base, *experts = models
    write_orbax(base / "params", read(base))
    (base / "model.safetensors").unlink()
    for expert in experts:
        content = read(expert)
        (expert / "model.safetensors").unlink()
        write_folder(expert, content, shard_size=300)
        assert len(list(expert.glob("model-*"))) > 2
    todos = {
        "ties": config(models, "ties", density=0.4),
        "iso_c": config(models, "iso_c") | {"parameters": {}},
        "broken0": config(models, "ties"),
        "broken1": config([base, tmp_path / "nowhere"], "ties"),
    }
    for name, todo in todos.items():
        with (tmp_path / f"{name}.yml").open("w") as file:
            YAML(typ="safe").dump(todo, file)
    first, second = in_two_processes(SCRIPT, tmp_path)
    for name, ulps in (("ties", 0), ("iso_c", 200)):
        run(todos[name], tmp_path / f"{name}_plain")
        plain = read(tmp_path / f"{name}_plain")
        assert_near(read(tmp_path / name), plain, ulps=ulps)
        assert manifest(tmp_path / name)["processes"] == 2
    check_manifest(tmp_path / "ties", tmp_path / "ties_plain")
    assert {f"ocdbt.process_{i}" for i in range(2)} <= {
        path.name for path in (tmp_path / "ties" / "params").iterdir()
    }
    assert "merged by ties" in first and "merged by ties" not in second
    assert "process 1 of 2 failed" in first and "nowhere" in second
    for printed in (first, second):
        assert "process 1 has another merge to do than process 0" in printed
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial"))
