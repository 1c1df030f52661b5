"""A new folder is complete or absent, wherever the process is killed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from folders import read, save, task_arithmetic, tensors
from samples import assert_same

from mda_jax import pipeline
from mda_jax.converters.formats import folder, write_folder
from mda_jax.converters.formats.folder import new_folder
from mda_jax.pipeline import ConfigError, MergeError


# Forks children that stop dead before the n-th line of folder.py, for every n.
KILL_EVERYWHERE = """
import itertools, os, shutil, sys
from pathlib import Path
from mda_jax.converters.formats import folder

work = Path(sys.argv[1])
out, partial = work / "out", work / "out.partial"


def fill(force, resume):
    with folder.new_folder(out, force=force, resume=resume) as new:
        for name in ("a", "b"):
            (new / name).write_text("new")
            (new / folder.JOURNAL).write_text(name)
        (new / folder.JOURNAL).unlink()


def killed_before(line, *how):
    def trace(frame, event, argument):
        nonlocal line
        if frame.f_code.co_filename != folder.__file__:
            return None
        line -= event == "line"
        if not line:
            os._exit(9)
        return trace

    child = os.fork()
    if not child:
        sys.settrace(trace)
        fill(*how)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def state():
    names = {p.name for p in out.iterdir()} - {".lock"} if out.is_dir() else set()
    return " ".join(sorted(names))


for how in itertools.product([False, True], repeat=2):
    seen, line, killed = set(), 0, True
    while killed:
        line += 1
        if how[0]:
            out.mkdir()
            (out / "old").touch()
        killed = killed_before(line, *how)
        seen.add(state())
        if how[0] or not out.exists():
            fill(*how)
        assert state() == "a b" and not partial.exists(), line
        shutil.rmtree(out)
    assert line > 20 and seen == {"old" if how[0] else "", "a b"}, (line, seen)
    assert not list(work.iterdir())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="names are exchanged on Linux")
def test_killed_before_every_line(tmp_path):
    command = [sys.executable, "-c", KILL_EVERYWHERE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def fill(out, **options):
    with new_folder(out, **({"force": False, "resume": False} | options)) as new:
        (new / "new").touch()


def test_names_that_cannot_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(folder, "_renameat2", lambda one, other: -1)
    (tmp_path / "out").mkdir()
    fill(tmp_path / "out", force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["new"]


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling link"])
@pytest.mark.parametrize("resume", [False, True])
def test_what_no_merge_left_is_not_removed(tmp_path, kind, resume):
    partial, mine = tmp_path / "out.partial", tmp_path / "mine"
    if kind == "file":
        partial.touch()
    elif kind == "dangling link":
        partial.symlink_to(tmp_path / "nowhere")
    else:
        folder = partial if kind == "folder" else mine
        folder.mkdir()
        (folder / "precious").touch()
        if kind == "link":
            partial.symlink_to(mine)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        ConfigError, match=r"out\.partial: was not left by an earlier attempt; move"
    ):
        fill(tmp_path / "out", resume=resume)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture
def models(tmp_path):
    return [save(tmp_path / n, tensors(s)) for s, n in enumerate(["base", "a", "b"])]


SMALL = {"shard_size": 700}


def stop(done, total):
    if done > 0.7 * total:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("a", "out: would replace .*a, which goes into"),
        (".", "would replace .*, which goes into"),
        ("a/new", "lies in .*a, which goes into"),
        ("link", "is no folder"),
        ("link/new", "lies in .*a, which goes into"),
        ("rules", "would replace .*rules/c.json, which goes into"),
    ],
)
def test_no_input_is_replaced(models, tmp_path, out, expected):
    (tmp_path / "link").symlink_to(models[1])
    (tmp_path / "rules").mkdir()
    config = tmp_path / "rules" / "c.json"
    config.write_text(json.dumps(task_arithmetic(*models)))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=expected.removeprefix("out: ")):
        pipeline.run(config, tmp_path / out, force=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_partial_folder_is_no_input(models, tmp_path):
    config = task_arithmetic(models[0], models[1].rename(tmp_path / "out.partial"))
    with pytest.raises(ConfigError, match=r"would replace .*out\.partial, which"):
        pipeline.run(config, tmp_path / "out")
    assert read(tmp_path / "out.partial")


def test_an_interruption_says_what_is_left(models, tmp_path):
    config = task_arithmetic(*models)
    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline.run(config, tmp_path / "out", **SMALL, watch=stop)
    (note,) = caught.value.__notes__
    assert note.endswith(
        "out.partial holds what is finished; --resume goes on from there."
    )
    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline.run(config, tmp_path / "other", watch=stop)
    assert not hasattr(caught.value, "__notes__")


def test_what_is_complete_is_not_merged_again(models, tmp_path):
    config, out = task_arithmetic(*models), tmp_path / "out"
    pipeline.run(config, out, **SMALL)
    weights = sorted(out.glob("*.safetensors"))
    ages = [path.stat().st_mtime_ns for path in weights]
    report = pipeline.run(config, out, **SMALL, resume=True)
    assert report.warnings == ["this merge is complete already; nothing was written."]
    assert [path.stat().st_mtime_ns for path in weights] == ages
    with pytest.raises(ConfigError, match="exists already"):
        pipeline.run(config, out, **SMALL, resume=True, seed=1)
    whole = read(out)
    with weights[0].open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x11")
    with pytest.raises(ConfigError, match="exists already"):
        pipeline.run(config, out, **SMALL, resume=True)
    pipeline.run(config, out, **SMALL, resume=True, force=True)
    assert_same(read(out), whole)


def test_an_input_that_changed_is_noticed(models, tmp_path):
    config, out = task_arithmetic(*models), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(config, out, **SMALL, watch=stop)
    file = models[1] / "model.safetensors"
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(-1, 2)
        opened.write(b"?")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ConfigError, match="unfinished merge of another"):
        pipeline.run(config, out, **SMALL, resume=True)


def chained(models, tmp_path):
    first = task_arithmetic(*models[:2]) | {"name": "first"}
    second = task_arithmetic(models[0], models[2])
    second["models"][0]["model"] = "first"
    file = tmp_path / "c.yml"
    file.write_text("\n---\n".join(map(json.dumps, (first, second))))
    return file


def test_several_merges_go_on_too(models, tmp_path):
    config, out = chained(models, tmp_path), tmp_path / "out"
    pipeline.run_all(config, tmp_path / "whole")
    calls = []

    def second(done, total):
        calls.append(done)
        if done == total and calls.count(total) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        pipeline.run_all(config, out, watch=second)
    assert "out.intermediate holds named merges" in caught.value.__notes__[-1]
    kept = tmp_path / "out.intermediate" / "first" / "model.safetensors"
    age = kept.stat().st_mtime_ns
    first, _ = pipeline.run_all(config, out, resume=True, intermediate=kept.parents[1])
    assert "complete already" in first.warnings[0] and kept.stat().st_mtime_ns == age
    assert_same(read(out), read(tmp_path / "whole"))


def test_several_merges_leave_nothing_after_an_error(models, tmp_path):
    config, out = chained(models, tmp_path), tmp_path / "out"
    before = sorted(tmp_path.iterdir())
    (tmp_path / "out.intermediate").mkdir()
    (tmp_path / "out.intermediate" / "precious").touch()
    with pytest.raises(ConfigError, match="has 'precious', which no merge left there"):
        pipeline.run_all(config, out)
    (tmp_path / "out.intermediate" / "precious").unlink()
    bad = tensors(2)
    bad["model.norm.weight"][0] = np.nan
    (models[0] / "model.safetensors").unlink()
    write_folder(models[0], bad)
    with pytest.raises(MergeError):
        pipeline.run_all(config, out)
    assert sorted(tmp_path.iterdir()) == before
    out.mkdir()
    with pytest.raises(ConfigError, match="exists already"):
        pipeline.run_all(config, out)
    assert not (tmp_path / "out.intermediate").exists()
