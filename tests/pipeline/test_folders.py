"""The output folder is complete or absent, and has all the other files."""

import hashlib
import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch
from folders import read, save, task_arithmetic, tensors
from ruamel.yaml import YAML
from samples import assert_same
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from mda_jax import pipeline
from mda_jax.pipeline import MergeError
from mda_jax.pipeline.coverage import coverage
from mda_jax.pipeline.job import settle


OWN = "README.md", "merge_manifest.json", "mergekit_config.yml", "model.safetensors"


@pytest.fixture
def models(tmp_path):
    return [save(tmp_path / n, tensors(s)) for s, n in enumerate(["base", "a", "b"])]


def test_shards_hold_the_same_as_one_file(models, tmp_path):
    config = task_arithmetic(*models)
    pipeline.run(config, tmp_path / "one")
    pipeline.run(config, tmp_path / "many", shard_size=700)
    assert len(list((tmp_path / "many").glob("*.safetensors"))) == 4
    assert_same(read(tmp_path / "many"), read(tmp_path / "one"))
    again = safetensors.numpy.load_file(tmp_path / "one" / "model.safetensors")
    assert_same(again, read(tmp_path / "one"))


def test_two_runs_give_the_same_bytes(models, tmp_path):
    for out in ("x", "y"):
        pipeline.run(task_arithmetic(*models), tmp_path / out)
    first, second = (tmp_path / o / "model.safetensors" for o in ("x", "y"))
    assert first.read_bytes() == second.read_bytes()


def test_other_files_come_along(models, tmp_path):
    base = models[0]
    kept = {
        "tokenizer.json": "{}",
        "vocab.txt": "[PAD]",
        "spiece.model": "x",
        "chat_template.jinja": "{{ x }}",
        "preprocessor_config.json": "{}",
        "modules.json": '[{"path": ""}, {"path": "1_Pooling"}]',
        "1_Pooling/config.json": "{}",
    }
    left = [
        "README.md",
        ".gitattributes",
        "pytorch_model.bin",
        "optimizer.pt",
        "flax_model.msgpack",
        "old.safetensors.index.json",
        "onnx/config.json",
        "onnx/model.onnx",
        "checkpoint-5/model.safetensors",
        "checkpoint-5/trainer_state.json",
    ]
    for name, text in (kept | dict.fromkeys(left, "")).items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(text)
    report = pipeline.run(task_arithmetic(*models), tmp_path / "out")
    found = [p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.*")]
    assert {str(p) for p in found} == {*kept, "config.json", *OWN}
    assert {str(p) for p in report.files} == {*kept, "config.json"}
    for name, text in kept.items():
        assert (tmp_path / "out" / name).read_text() == text


def test_without_tokenizer_and_card(models, tmp_path):
    for name in ("tokenizer.json", "vocab.txt", "spiece.model", "generation.json"):
        (models[0] / name).touch()
    options = {"tokenizer": False, "card": False}
    pipeline.run(task_arithmetic(*models), tmp_path / "out", **options)
    found = {p.name for p in (tmp_path / "out").iterdir()}
    assert found == {"config.json", "generation.json", *OWN} - {"README.md"}


def test_a_merged_folder_says_what_it_is(models, tmp_path):
    config = task_arithmetic(*models)
    pipeline.run(config, tmp_path / "out", seed=3)
    manifest = json.loads((tmp_path / "out" / "merge_manifest.json").read_text())
    assert manifest["config"] == config and manifest["seed"] == 3
    assert manifest["inputs"].keys() == set(map(str, models))
    base, merged = read(models[0]), read(tmp_path / "out")
    for name, record in manifest["tensors"].items():
        digest = hashlib.sha256(merged[name].tobytes()).hexdigest()
        assert record["sha256"] == digest and record["rule"].startswith("merged by")
        delta = merged[name].astype(float) - base[name]
        assert record["delta_norm"] == pytest.approx(np.linalg.norm(delta), rel=1e-6)
        assert record["changed"] == np.mean(merged[name] != base[name])
        deltas = [read(model)[name].astype(float) - base[name] for model in models[1:]]
        conflict = np.any(np.greater(deltas, 0), 0) & np.any(np.less(deltas, 0), 0)
        assert record["sign_conflict"] == conflict.mean()
    assert any(r["sign_conflict"] for r in manifest["tensors"].values())
    used = {"used": len(base), "left_out": 0}
    assert manifest["coverage"] == dict.fromkeys(map(str, models), used)
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert YAML(typ="safe").load(front) == {
        "base_model": list(map(str, models)),
        "library_name": "transformers",
        "tags": ["merge", "mda-jax", "mergekit"],
    }
    assert "# out\n" in text and "`task_arithmetic`" in text
    again = pipeline.run(tmp_path / "out" / "mergekit_config.yml", tmp_path / "again")
    assert_same(read(again.out), merged)


def test_weight_files_are_digested_whole_if_asked_for(models, tmp_path):
    pipeline.run(task_arithmetic(*models), tmp_path / "out", digest_inputs=True)
    manifest = json.loads((tmp_path / "out" / "merge_manifest.json").read_text())
    for model in models:
        (file,) = model.glob("*.safetensors")
        noted = manifest["inputs"][str(model)][file.name]
        assert noted["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
        assert noted["bytes"] == file.stat().st_size


def test_every_tensor_must_be_covered(models, tmp_path):
    job = settle(task_arithmetic(*models), None)
    every = set(job.specs)
    with pytest.raises(MergeError, match=r"'.*' was to be written, and was not"):
        coverage(job, every - {min(every)})
    assert coverage(job, every)
    job.parts[0][0].inventory.merged.clear()
    with pytest.raises(MergeError, match="no rule says what became of"):
        coverage(job, every)


def test_force_replaces_a_folder_once_the_new_one_is_complete(models, tmp_path):
    out = tmp_path / "out"
    save(out, tensors(7))
    with pytest.raises(OSError, match="stop"):
        pipeline.run(task_arithmetic(*models), out, force=True, watch=stop_at(0))
    assert_same(read(out), tensors(7))
    pipeline.run(task_arithmetic(*models), out, force=True)
    assert (out / "merge_manifest.json").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "base", "out"]
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(pipeline.ConfigError, match="is no folder"):
        pipeline.run(task_arithmetic(*models), file, force=True)


def stop_at(share):
    """Stop a merge when more than this share of the bytes is written."""

    def watch(done, total):
        if done > share * total:
            raise OSError("stop")

    return watch


def test_a_merge_goes_on_where_it_was_interrupted(models, tmp_path):
    config, small = task_arithmetic(*models), {"shard_size": 700}
    pipeline.run(config, tmp_path / "whole", **small)
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    with pytest.raises(OSError, match="stop"):
        pipeline.run(config, out, **small, watch=stop_at(0.7))
    assert not out.exists()
    noted = json.loads((partial / "merge_progress.json").read_text())["finished"]
    first, *others = sorted(noted)
    ages = {name: (partial / name).stat().st_mtime_ns for name in others}
    with (partial / first).open("r+b") as file:  # damaged, so it is merged again
        file.seek(-1, os.SEEK_END)
        file.write(b"?")
    pipeline.run(config, out, **small, resume=True)
    assert not partial.exists()
    for file in (tmp_path / "whole").iterdir():
        assert (out / file.name).read_bytes() == file.read_bytes().replace(
            b"# whole", b"# out"
        )
    assert {n: (out / n).stat().st_mtime_ns for n in others} == ages != {}


def test_only_the_same_merge_is_resumed(models, tmp_path):
    config, small = task_arithmetic(*models), {"shard_size": 700}
    with pytest.raises(OSError, match="stop"):
        pipeline.run(config, tmp_path / "out", **small, watch=stop_at(0.7))
    with pytest.raises(pipeline.ConfigError, match="unfinished merge of another"):
        pipeline.run(config, tmp_path / "out", **small, resume=True, seed=1)
    pipeline.run(config, tmp_path / "out", **small, seed=1)
    assert not (tmp_path / "out.partial").exists()


def test_two_merges_do_not_write_into_one_folder(models, tmp_path):
    config = task_arithmetic(*models)

    def second(done, total):
        with pytest.raises(pipeline.ConfigError, match="another process is writing"):
            pipeline.run(config, tmp_path / "out")

    pipeline.run(config, tmp_path / "out", watch=second)
    assert read(tmp_path / "out")


def test_a_module_with_weights_is_refused(models, tmp_path):
    (models[0] / "modules.json").write_text('[{"path": ""}, {"path": "2_Dense"}]')
    save(models[0] / "2_Dense", {"w": np.ones(2, np.float32)})
    with pytest.raises(MergeError, match="'2_Dense' has weights of its own"):
        pipeline.run(task_arithmetic(*models), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_config_is_copied_byte_by_byte_unless_the_type_changes(models, tmp_path):
    text = '{"dtype":"float32",  "é": 1, "text_config": {"torch_dtype": "float32"}}'
    (models[0] / "config.json").write_text(text, encoding="utf-8")
    pipeline.run(task_arithmetic(*models, dtype="float32"), tmp_path / "same")
    assert (tmp_path / "same" / "config.json").read_text(encoding="utf-8") == text
    pipeline.run(task_arithmetic(*models, dtype="float16"), tmp_path / "new")
    changed = json.loads((tmp_path / "new" / "config.json").read_text(encoding="utf-8"))
    text_config = {"torch_dtype": "float16"}
    assert changed == {"dtype": "float16", "é": 1, "text_config": text_config}


def test_modes_follow_the_umask(models, tmp_path):
    before = os.umask(0o027)
    pipeline.run(task_arithmetic(*models), tmp_path / "out")
    os.umask(before)
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "out").iterdir()}
    assert modes == {0o640}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750


class Stop(BaseException):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("when", [1, 3])
def test_nothing_is_left_behind(models, tmp_path, error, when):
    calls = []

    def watch(done, total):
        calls.append((done, total))
        if len(calls) == when:
            raise error

    with pytest.raises(error):
        pipeline.run(task_arithmetic(*models), tmp_path / "out", watch=watch)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "base"]


def test_an_output_made_meanwhile_is_kept(models, tmp_path):
    out = tmp_path / "out"

    def watch(done, total):
        if done == total:
            out.mkdir()
            (out / "precious").touch()

    with pytest.raises(pipeline.ConfigError, match="exists already"):
        pipeline.run(task_arithmetic(*models), out, watch=watch)
    assert [p.name for p in out.iterdir()] == ["precious"]
    assert len(list(tmp_path.iterdir())) == 4


def test_single_files_can_be_merged(models, tmp_path):
    files = [m / "model.safetensors" for m in models]
    report = pipeline.run(task_arithmetic(*files), tmp_path / "out")
    assert report.files == [] and len(read(tmp_path / "out")) == len(tensors(0))


def perturbed(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn(weight.shape, generator=generator)
    return model


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "vocab_size": 40,
}


@pytest.mark.parametrize(
    ("build", "load"),
    [
        (lambda: BertModel(BertConfig(**SMALL)), AutoModel),
        (lambda: LlamaForCausalLM(LlamaConfig(**SMALL)), AutoModelForCausalLM),
        (
            lambda: LlamaForCausalLM(LlamaConfig(**SMALL, tie_word_embeddings=True)),
            AutoModelForCausalLM,
        ),
    ],
    ids=["bert", "llama", "tied llama"],
)
def test_transformers_loads_the_result(tmp_path, build, load):
    torch.manual_seed(0)
    model = build()
    folders = [tmp_path / n for n in ("base", "a", "b")]
    for seed, folder in enumerate(folders):
        perturbed(model, seed).save_pretrained(folder)
    pipeline.run(task_arithmetic(*folders), tmp_path / "out")
    merged, info = load.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values()), info
    states = [load.from_pretrained(f).state_dict() for f in folders]
    for name, got in merged.state_dict().items():
        base, a, b = (s[name].double() for s in states)
        want = base + 0.5 * (a - base) + 0.5 * (b - base)
        # Four roundings of numbers below 8, as in the accounting tests.
        assert (got.double() - want).abs().max() <= 4 * 8 * 2**-23, name


MEMORY = """
import json, sys
import jax
from mda_jax import pipeline
jax.jit(lambda x: x + 1)(1.0).block_until_ready()
pipeline.run(json.loads(sys.argv[1]), sys.argv[2])
with open("/proc/self/status") as status:
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
print(1024 * int(peak))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("method", "dtype"), [("linear", "float32"), ("ties", "bfloat16")]
)
def test_memory_is_bounded_by_the_largest_tensor(tmp_path, method, dtype):
    """At most 3 copies of it per expert, and what JAX itself takes."""
    width = 512 if dtype == "float32" else 1024
    names = [f"layers.{i}.embed_tokens.weight" for i in range(3)]
    folders = []
    for seed in range(3):
        row = np.random.default_rng(seed).normal(size=width)
        table = np.tile(row.astype(np.dtype(dtype)), (24_000, 1))
        folders.append(save(tmp_path / str(seed), dict.fromkeys(names, table)))
    config = task_arithmetic(*folders, merge_method=method)
    if method == "linear":
        config["parameters"] = {"weight": 0.5}
    else:
        config["parameters"] = {"density": 0.4}
    command = [sys.executable, "-c", MEMORY, json.dumps(config), str(tmp_path / "out")]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    # A model held whole would not fit: there are three, of three such tables each.
    assert int(child.stdout) < 3 * table.nbytes * 2 + 300e6
