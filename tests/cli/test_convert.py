"""`convert`, `inspect` and `compare`, as they are typed."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from torch_models import saved
from typer.testing import CliRunner

from mda_jax import converters
from mda_jax.cli import app


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved("bert_mlm", tmp_path_factory.mktemp("models"))


def files(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.parametrize("to", ["flax", "orbax"])
def test_there_and_back(to, model, tmp_path):
    there = run("convert", model, tmp_path / "there", "--to", to)
    assert there.exit_code == 0 and "hub -> nnx" in there.stdout
    back = run("convert", tmp_path / "there", tmp_path / "back", "--to", "torch", "-q")
    assert (back.exit_code, back.stdout) == (0, "")
    assert files(tmp_path / "back") == files(model)


def test_a_dialect_and_a_format_are_chosen(model, tmp_path):
    arguments = ("--to", "flax", "--dialect", "scanned", "--format", "npz")
    assert run("convert", model, tmp_path / "out", *arguments).exit_code == 0
    with np.load(tmp_path / "out/model.npz") as held:
        assert held["layers/mlp/up/kernel"].ndim == 3
    shown = run("inspect", tmp_path / "out")
    assert "dialect: scanned" in shown.stdout and "converted from: hub" in shown.stdout


def test_files_of_torch_become_safetensors_and_back(model, tmp_path):
    steps = [("a", "pytorch", "pytorch_model.bin"), ("b", "safetensors", "model.saf")]
    source = model
    for name, format, begins in steps:
        arguments = ("--to", "torch", "--format", format)
        assert run("convert", source, tmp_path / name, *arguments).exit_code == 0
        source = tmp_path / name
        assert [n for n in files(source) if n.startswith(begins)]
    assert (
        load_file(tmp_path / "b/model.safetensors").keys()
        == load_file(model / "model.safetensors").keys()
    )


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["--to", "flax", "--dialect", "timm"],
            1,
            "'timm' is no dialect of bert; there",
        ),
        (["--to", "flax", "--format", "gguf"], 2, "'gguf' is no format to write"),
        (["--to", "jax"], 2, "'jax' is not one of"),
    ],
)
def test_what_there_is_not(arguments, code, message, model, tmp_path):
    result = run("convert", model, tmp_path / "out", *arguments)
    assert result.exit_code == code
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_nothing_is_replaced_unless_asked(model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").write_text("mine")
    result = run("convert", model, tmp_path / "out", "--to", "flax")
    assert result.exit_code == 2 and "exists already" in result.stderr
    assert result.stderr.count("\n") == 1
    assert files(tmp_path / "out") == {"kept": b"mine"}
    assert (
        run("convert", model, tmp_path / "out", "--to", "flax", "--force").exit_code
        == 0
    )
    assert "kept" not in {p.name for p in (tmp_path / "out").iterdir()}


def test_a_model_is_not_converted_into_itself(model):
    result = run("convert", model, model, "--to", "flax", "--force")
    assert result.exit_code == 2 and "would replace" in result.stderr
    assert (model / "model.safetensors").exists()


def test_damage_is_told_in_a_line(model, tmp_path):
    (tmp_path / "in").mkdir()
    whole = (model / "model.safetensors").read_bytes()
    (tmp_path / "in/model.safetensors").write_bytes(whole[:-7])
    for command in (["inspect"], ["convert", tmp_path / "out", "--to", "flax"]):
        result = run(command[0], tmp_path / "in", *command[1:])
        assert result.exit_code == 1 and "truncated" in result.stderr
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_shown(model):
    shown = run("inspect", model)
    assert shown.exit_code == 0 and not shown.stderr
    assert "family: bert, dialect: hub, prefix: 'bert.'" in shown.stdout
    assert "bert.encoder.layer.*.output.dense.weight" in shown.stdout.replace("\n", "")
    every = run("inspect", model, "--every")
    assert every.stdout.count("layer.1.") > shown.stdout.count("layer.1.")


def test_a_config_that_is_not_understood_is_told(model, tmp_path):
    config = json.loads((model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"alibi": True}))
    (tmp_path / "model.safetensors").write_bytes(
        (model / "model.safetensors").read_bytes()
    )
    shown = run("inspect", tmp_path)
    assert shown.exit_code == 0
    assert "warning: not compared with a model: config.json: the field 'alibi'" in (
        shown.stderr
    )


@pytest.fixture
def nudged(model, tmp_path):
    """The model with one number a little off."""
    tensors = load_file(model / "model.safetensors")
    tensors["cls.predictions.bias"][3] += 2**-10
    (tmp_path / "nudged").mkdir()
    save_file(tensors, tmp_path / "nudged/model.safetensors")
    (tmp_path / "nudged/config.json").write_text((model / "config.json").read_text())
    return tmp_path / "nudged"


def test_two_checkpoints_are_compared(model, nudged, tmp_path):
    run("convert", model, tmp_path / "flax", "--to", "flax")
    same = run("compare", model, tmp_path / "flax", "--logits")
    assert same.exit_code == 0 and "none of 42 tensors differ" in same.stdout
    assert "mlm: differs by 0 where" in same.stdout
    result = run("compare", tmp_path / "flax", nudged, "--logits")
    assert result.exit_code == 1
    assert "mlm/bias: 1 of 61 entries differ, by 0.000977 at most" in result.stdout
    assert "mlm: differs by 0.000977 where" in result.stdout
    assert "hidden: differs by 0 where" in result.stdout
    assert run("compare", model, nudged, "--atol", "0.001").exit_code == 0
    assert run("compare", model, nudged, "--atol", "0.0009").exit_code == 1


def test_missing_tensors_and_other_types_differ(model, tmp_path):
    tree = converters.to_flax(converters.load(model))
    del tree["mlm"]
    tree["embeddings"]["norm"]["bias"] = tree["embeddings"]["norm"]["bias"].astype("f2")
    converters.save(tree, tmp_path / "less", "npz")
    result = run("compare", model, tmp_path / "less")
    assert result.exit_code == 1
    assert "mlm/bias: float32 [61] in A, missing in B" in result.stdout
    assert "embeddings/norm/bias: float32 [32] in A, float16 [32] in B" in result.stdout


def test_two_families_have_nothing_in_common(model, tmp_path):
    other = saved("gpt2", tmp_path)
    result = run("compare", model, other)
    assert result.exit_code == 1 and "of two families" in result.stderr
