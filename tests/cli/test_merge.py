"""Bad input ends in one line, a code, and no trace of an output."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from folders import SHAPES, read, save, task_arithmetic, tensors
from ruamel.yaml import YAML
from samples import assert_same
from typer.testing import CliRunner

from mda_jax.cli import app
from mda_jax.cli.merge import size
from mda_jax.pipeline import several


def write_yaml(path, config):
    with path.open("w") as file:
        YAML(typ="safe").dump(config, file)
    return path


@pytest.fixture
def work(tmp_path):
    """A folder with base, a, and c.yml that merges them."""
    models = [save(tmp_path / name, tensors(s)) for s, name in enumerate(["base", "a"])]
    write_yaml(tmp_path / "c.yml", task_arithmetic(*models))
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app, [os.fspath(a) for a in arguments])


def test_a_good_merge(work):
    result = run("merge", work / "c.yml", work / "out")
    assert result.exit_code == 0, result.output
    assert "merged by task_arithmetic" in result.stdout
    assert f"{len(SHAPES)} tensors and 1 other files" in result.stdout
    assert result.stderr == ""


def test_models_in_pytorchs_format(work):
    config = work / "c.yml"
    assert run("merge", config, work / "expected").exit_code == 0
    for folder in (work / "base", work / "a"):
        content = {n: torch.from_numpy(array) for n, array in read(folder).items()}
        turned = {
            n: t.T.contiguous().T if t.ndim == 2 else t for n, t in content.items()
        }
        torch.save({"state_dict": turned, "epoch": 3}, folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    assert run("plan", config).exit_code == 0
    merged = run("merge", config, work / "out")
    assert merged.exit_code == 0, merged.output
    assert_same(read(work / "out"), read(work / "expected"))
    assert not list((work / "out").glob("*.bin"))
    manifest = json.loads((work / "out" / "merge_manifest.json").read_text())
    (given,) = manifest["inputs"][str(work / "a")].values()
    assert given.keys() == {"bytes", "header_sha256"}


def test_quiet_and_options(work):
    result = run(
        *("merge", work / "c.yml", work / "out", "--quiet", "--seed", "3"),
        *("--out-shard-size", "0.7K", "--layout", "every_2d"),
    )
    assert (result.exit_code, result.output) == (0, "")
    assert len(list((work / "out").glob("model-*"))) == 4


def test_vocabularies_that_differ_can_be_cut(work):
    names = ("model.embed_tokens.weight", "lm_head.weight")
    rewrite(work, lambda t: t.update({n: t[n][:10] for n in names}))
    command = ("merge", work / "c.yml", work / "out")
    refused = run(*command)
    assert refused.exit_code == 1 and "--unsafe-truncate-embeddings" in refused.stderr
    shown = run(*command, "--dry-run", "--unsafe-truncate-embeddings")
    assert shown.exit_code == 0 and "10 x 8" in shown.stdout
    result = run(*command, "--unsafe-truncate-embeddings")
    assert result.exit_code == 0
    assert "warning: token tables were cut to 10 rows" in result.stderr


def test_warnings_go_to_stderr(work):
    config = task_arithmetic(work / "base", work / "a")
    config["models"][0]["parameters"]["weight"] = 0.0
    result = run("merge", write_yaml(work / "c.yml", config), work / "out", "--quiet")
    assert result.exit_code == 0
    assert result.stderr.startswith("mda-jax: warning: the merged weights equal those")


def truncate(work):
    path = work / "a" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])


def corrupt(work):
    path = work / "a" / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def rewrite(work, change):
    content = tensors(1)
    change(content)
    (work / "a" / "model.safetensors").unlink()
    (work / "a" / "config.json").unlink()
    (work / "a").rmdir()
    save(work / "a", content)


def edit(work, old, new):
    text = (work / "c.yml").read_text()
    assert old in text
    (work / "c.yml").write_text(text.replace(old, new, 1))


BAD = {
    "missing folder": (lambda w: edit(w, "/a\n", "/b\n"), 2, "no such folder"),
    "missing config": (lambda w: (w / "c.yml").unlink(), 2, "c.yml: cannot be read"),
    "YAML error": (lambda w: edit(w, "models", "'"), 2, "no valid YAML"),
    "unknown key": (lambda w: edit(w, "base_model", "base_modle"), 2, "'base_model'"),
    "unknown method": (lambda w: edit(w, "task_arit", "task_arti"), 2, "did you mean"),
    "existing output": (lambda w: (w / "out").touch(), 2, "out: exists already"),
    "missing tensor": (
        lambda w: rewrite(w, lambda t: t.pop("model.norm.weight")),
        1,
        "is missing",
    ),
    "shape": (
        lambda w: rewrite(w, lambda t: t.update(x=np.ones(1, np.float32))),
        1,
        "'x' (1,) is extra",
    ),
    "truncated": (truncate, 1, "truncated"),
    "corrupt": (corrupt, 1, "a header of"),
    "NaN": (
        lambda w: rewrite(w, lambda t: t["lm_head.weight"].__setitem__(0, np.nan)),
        1,
        "'lm_head.weight' would be NaN",
    ),
    "pickle": (
        lambda w: (w / "a" / "model.safetensors").rename(w / "a" / "pytorch_model.bin"),
        1,
        "no zip archive",
    ),
    "program": (
        lambda w: (
            torch.save({"w": torch.ones(1), "x": os.getcwd}, w / "a" / "m.bin"),
            (w / "a" / "model.safetensors").unlink(),
        ),
        1,
        "m.bin: found 'posix.getcwd'; expected tensors and plain values. Nothing was",
    ),
    "config.json": (
        lambda w: (
            (w / "base" / "config.json").write_text("{"),
            edit(w, "models", "dtype: float16\nmodels"),
        ),
        1,
        "config.json: no valid JSON",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(work, case):
    spoil, code, message = BAD[case]
    spoil(work)
    before = sorted(work.iterdir())
    result = run("merge", work / "c.yml", work / "out")
    assert result.exit_code == code, result.output
    assert message in result.stderr and result.stdout == ""
    assert result.stderr.startswith("mda-jax: error: ")
    assert result.stderr.count("\n") == 1
    assert sorted(work.iterdir()) == before


def test_a_parent_that_does_not_exist(work):
    result = run("merge", work / "c.yml", work / "no" / "out")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("errno", [28, 13])
def test_disk_full_and_no_permission(work, monkeypatch, errno):
    def pwrite(*arguments):
        raise OSError(errno, os.strerror(errno))

    monkeypatch.setattr(os, "pwrite", pwrite)
    result = run("merge", work / "c.yml", work / "out")
    assert result.exit_code == 1
    file = work / "out.partial" / "model.safetensors"
    assert result.stderr == f"mda-jax: error: {file}: {os.strerror(errno)}.\n"
    assert not list(work.glob("out*"))


def test_debug_shows_the_traceback(work):
    truncate(work)
    result = run("merge", work / "c.yml", work / "out", "--debug")
    assert type(result.exception).__name__ == "FormatError"


def test_usage_errors_are_code_2(work):
    assert run("merge").exit_code == 2
    assert run("merge", work / "c.yml", work / "out", "--seeed", "1").exit_code == 2
    wrong = run("merge", work / "c.yml", work / "out", "--out-shard-size", "0B")
    assert wrong.exit_code == 2 and "'0B' is no size" in wrong.stderr


def test_sizes():
    assert size("500m") == 500_000_000
    assert size("5B") == size("5GB") == 5_000_000_000


SLOW = """
import sys, time
from mda_jax import pipeline
from mda_jax.cli import main
from mda_jax.pipeline import several
real = pipeline.run
def slow(*a, watch, **k):
    def wait(done, total):
        print("going", flush=True)
        time.sleep(60)
    return real(*a, watch=wait, **k)
several.run = slow
main()
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, 130)]
)
def test_signals_leave_nothing_behind(work, number, code):
    command = [sys.executable, "-c", SLOW, "merge", work / "c.yml", work / "out"]
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.readline() == "going\n"
    assert list(work.glob("out.partial"))
    child.send_signal(number)
    _, error = child.communicate(timeout=30)
    assert child.returncode == code and "Traceback" not in error
    assert not list(work.glob("out*"))


def test_an_interruption_says_how_to_go_on(work, monkeypatch):
    def interrupted(*a, watch, **k):
        def stop(done, total):
            if done > total / 2:
                raise KeyboardInterrupt

        return real(*a, watch=stop, **k)

    real = several.run
    monkeypatch.setattr(several, "run", interrupted)
    command = ("merge", work / "c.yml", work / "out", "--out-shard-size", "0.7K")
    result = run(*command)
    assert result.exit_code == 130 and result.stderr.count("\n") == 1
    left = f"{work}/out.partial holds what is finished; --resume goes on from there."
    assert result.stderr == f"mda-jax: error: interrupted; {left}\n"
    monkeypatch.undo()
    assert run(*command, "--resume").exit_code == 0
    again = run(*command, "--resume")
    assert again.exit_code == 0 and "this merge is complete already" in again.stderr


def test_a_disk_that_is_full_after_a_while(work, monkeypatch):
    def pwrite(descriptor, data, offset):
        if offset and (work / "out.partial" / "merge_progress.json").exists():
            raise OSError(28, os.strerror(28))
        return real(descriptor, data, offset)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", pwrite)
    command = ("merge", work / "c.yml", work / "out", "--out-shard-size", "0.7K")
    result = run(*command)
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "No space left on device. " in result.stderr
    assert "--resume goes on from there" in result.stderr
    monkeypatch.undo()
    assert run(*command, "--resume").exit_code == 0


def test_rules_for_names(work):
    (work / "n.yml").write_text("ties: {}\ntokens: [lm_hed.weight]\n")
    for command in (("merge", work / "c.yml", work / "out"), ("plan", work / "c.yml")):
        result = run(*command, "--names", work / "n.yml")
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
        assert "n.yml:2: no tensor has a name that 'lm_hed.weight'" in result.stderr
        assert "the nearest is 'lm_head.weight'" in result.stderr
    (work / "n.yml").write_text("ties: {}\ntokens: [lm_head.weight]\n")
    shown = run("plan", work / "c.yml", "--names", work / "n.yml").stdout
    assert "by your rules for names: ties: none" in shown
    assert "tokens: 1 tensors match 'lm_head.weight'" in shown
    result = run("merge", work / "c.yml", work / "out", "--names", work / "n.yml")
    assert result.exit_code == 0


def test_help_does_not_wait_for_jax_to_compile():
    start = time.process_time()
    assert run("--help").exit_code == 0
    assert time.process_time() - start < 1


def test_options_of_mergekit_are_accepted_with_a_word(work):
    flags = ["--cuda", "--no-lazy-unpickle", "--allow-crimes", "--device", "cpu"]
    given = ["--random-seed", "3", "--no-copy-tokenizer", "--no-write-model-card"]
    result = run("merge", work / "c.yml", work / "out", "-j", "4", *flags, *given)
    assert result.exit_code == 0
    said = result.stderr.splitlines()
    assert len(said) == 5 and all("changes nothing here: " in line for line in said)
    assert not (work / "out" / "README.md").exists()


def test_force_and_resume(work):
    assert run("merge", work / "c.yml", work / "out").exit_code == 0
    result = run("merge", work / "c.yml", work / "out")
    assert result.exit_code == 2 and "exists already" in result.stderr
    options = ("--force", "--resume")
    assert run("merge", work / "c.yml", work / "out", *options).exit_code == 0


def test_a_ceiling_for_memory(work):
    result = run("merge", work / "c.yml", work / "out", "--max-memory", "100MB")
    assert result.exit_code == 2 and "more than the 100 MB allowed" in result.stderr
    assert not (work / "out").exists()
    result = run("merge", work / "c.yml", work / "out", "--max-memory", "100GB")
    assert result.exit_code == 0


DEVICES = {
    ("--mesh", "3"): "mesh 3 has 3 places, but there are 8 devices (cpu)",
    ("--out-format", "orbax"): "--out-format orbax needs --mesh; one device is",
    ("--distributed",): "--distributed needs --mesh",
    ("--mesh", "8", "--distributed"): "--distributed needs --out-format orbax",
    ("--mesh", "8", "--process", "0"): "--process needs --distributed",
    ("--mesh", "8", "--max-memory", "9GB"): "--max-memory predicts a merge on one",
    ("--mesh", "8", "--out-format", "orbax", "--resume"): "--resume does not go with",
    ("--mesh", "4xq"): "'4xq' is no mesh; write 8, 4x2 or data=4,model=2",
    ("--mesh", "a=4,a=2"): "'a=4,a=2' is no mesh",
    ("--coordinator", "here"): "'here' is no address; write HOST:PORT",
}


@pytest.mark.parametrize("options", DEVICES)
def test_devices_that_make_no_sense(work, options):
    result = run("merge", work / "c.yml", work / "out", *options)
    assert result.exit_code == 2 and DEVICES[options] in result.stderr
    assert not list(work.glob("out*"))


def test_processes_that_jax_cannot_tell(work, monkeypatch):
    def initialize(*given, **options):
        assert given == (None, 2, None)
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    options = "--mesh 8 --out-format orbax --distributed --processes 2".split()
    result = run("merge", work / "c.yml", work / "out", *options)
    assert result.exit_code == 2 and "give --coordinator HOST:PORT" in result.stderr


def test_on_a_mesh_into_both_formats(work):
    config = work / "c.yml"
    assert run("merge", config, work / "plain").exit_code == 0
    result = run("merge", config, work / "torch", "--mesh", "data=4,model=2")
    assert result.exit_code == 0, result.output
    result = run(
        *("merge", config, work / "orbax", "--mesh", "2x2x2", "--out-format", "orbax")
    )
    assert result.exit_code == 0, result.output
    assert "1 other files" in result.stdout
    for out in ("torch", "orbax"):
        assert_same(read(work / out), read(work / "plain"))
    again = run("merge", config, work / "torch", "--mesh", "data=4,model=2", "--resume")
    assert "this merge is complete already" in again.stderr
    several = work / "several.yml"
    several.write_text(f"name: a\n{config.read_text()}---\n{config.read_text()}")
    result = run("merge", several, work / "o", "--mesh", "8", "--out-format", "orbax")
    assert result.exit_code == 2 and "expected one merge here" in result.stderr
