import json
import os
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy
import torch
from samples import assert_same, every_type

from mda_jax.converters.formats import FormatError, Spec, open_tensors, write_folder


@pytest.fixture
def sharded(tmp_path):
    tensors = {f"w{i}": np.full((4, 4), i, np.float32) for i in range(5)}
    write_folder(tmp_path, tensors, shard_size=150)
    return tmp_path, tensors


def test_reads_what_the_official_package_wrote(tmp_path):
    # Its reader fails on 8-bit floats, its writer does not.
    tensors = every_type()
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors")
    read = open_tensors(tmp_path)
    assert_same(read, tensors)
    assert len(read) == len(tensors)


def test_spec_needs_no_data(tmp_path):
    write_folder(tmp_path, {"w": np.zeros((2, 3), np.float16)})
    assert open_tensors(tmp_path).spec("w") == Spec((2, 3), np.dtype(np.float16))
    assert open_tensors(tmp_path).spec("w").nbytes == 12


def test_arrays_are_read_only_and_outlive_the_mapping(tmp_path):
    write_folder(tmp_path, {"w": np.arange(6.0).reshape(2, 3)})
    array = open_tensors(tmp_path)["w"][1]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1.0
    assert array.tolist() == [3.0, 4.0, 5.0]


def test_a_dropped_array_leaves_others_intact(tmp_path):
    write_folder(tmp_path, {"a": np.ones(5000), "b": np.ones(5000)})
    tensors = open_tensors(tmp_path)
    a, view = tensors["a"], tensors["b"][::2]
    del a
    assert tensors["a"].sum() == 5000 and view.sum() == 2500


def test_reads_shards(sharded):
    folder, tensors = sharded
    assert len(list(folder.glob("*.safetensors"))) == 3
    assert_same(open_tensors(folder), tensors)
    assert_same(open_tensors(folder / "model.safetensors.index.json"), tensors)


def test_model_safetensors_wins_over_others(tmp_path):
    write_folder(tmp_path, {"w": np.zeros(1)})
    other = tmp_path / "consolidated.safetensors"
    other.write_bytes((tmp_path / "model.safetensors").read_bytes())
    assert open_tensors(tmp_path).path == tmp_path
    (tmp_path / "model.safetensors").rename(tmp_path / "another.safetensors")
    with pytest.raises(FormatError, match=r"2 files.*another.safetensors, consol"):
        open_tensors(tmp_path)


@pytest.mark.parametrize("name", ["adapter.safetensors", "model.safetensors"])
def test_a_single_file_by_any_name(tmp_path, name):
    safetensors.numpy.save_file({"w": np.ones(2)}, tmp_path / name)
    assert list(open_tensors(tmp_path)) == ["w"]
    assert list(open_tensors(tmp_path / name)) == ["w"]


def edit_index(folder, change):
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    change(content)
    index.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["weight_map"].pop("w1"), "found tensor 'w1'; expected it in the"),
        (lambda c: c["weight_map"].update(w9=c["weight_map"]["w0"]), "no tensor 'w9'"),
        (lambda c: c["weight_map"].update(w9="gone.safetensors"), "no shard gone"),
        (lambda c: c["weight_map"].update(w0="../x.safetensors"), "name of a shard"),
        (lambda c: c["weight_map"].update(w0=3), "found 3 for 'w0'"),
        (lambda c: c["weight_map"].update(w0=""), "found '' for 'w0'"),
        (lambda c: c["weight_map"].clear(), "no weight_map"),
        (lambda c: c.pop("weight_map"), "no weight_map"),
    ],
)
def test_an_index_must_agree_with_its_shards(sharded, change, message):
    edit_index(sharded[0], change)
    with pytest.raises(FormatError, match=message):
        open_tensors(sharded[0])


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff", "[" * 100_000])
def test_an_index_that_is_no_object(sharded, text):
    index = sharded[0] / "model.safetensors.index.json"
    index.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FormatError, match=r"JSON|weight_map"):
        open_tensors(sharded[0])


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "training_args.bin").touch()
    with pytest.raises(
        FormatError, match=r"no weights; expected one of \*.safetensors"
    ):
        open_tensors(tmp_path)
    with pytest.raises(FormatError, match="nowhere: found nothing"):
        open_tensors(tmp_path / "nowhere")


MEMORY = """
import sys
from mda_jax.converters.formats import open_tensors
def resident():
    with open("/proc/self/statm") as f:
        return int(f.read().split()[1]) * 4096
tensors = open_tensors(sys.argv[1])
before = resident()
peak = 0
for name in tensors:
    tensors[name].sum()
    peak = max(peak, resident() - before)
print(peak)
"""


def as_safetensors(folder, tensors):
    write_folder(folder, tensors)


def as_pytorch(folder, tensors):
    content = {name: torch.from_numpy(array) for name, array in tensors.items()}
    torch.save(content, folder / "pytorch_model.bin")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("write", [as_safetensors, as_pytorch])
def test_memory_does_not_grow_with_the_number_of_tensors(tmp_path, write):
    size = 4 << 20
    write(tmp_path, {f"w{i}": np.ones(size // 4, np.float32) for i in range(12)})
    command = [sys.executable, "-c", MEMORY, os.fspath(tmp_path)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    # One tensor, and a quarter of another for what Python itself allocates.
    assert int(child.stdout) < 1.25 * size
