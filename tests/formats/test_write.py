import json
import os
import stat
from contextlib import contextmanager

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from hypothesis import given, settings, strategies as st
from samples import assert_same, every_type
from transformers import LlamaConfig, LlamaForCausalLM

from mda_jax.converters.formats import (
    FormatError,
    SafetensorsWriter,
    Spec,
    open_tensors,
    write_file,
    write_folder,
)
from mda_jax.converters.formats.writer import split


F32 = np.dtype(np.float32)


def test_bytes_are_those_of_the_official_package(tmp_path):
    tensors = every_type()
    write_file(tmp_path / "ours", tensors)
    official = safetensors.numpy.save(tensors, metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == official


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(
            lambda n: n != "__metadata__"
        ),
        st.tuples(
            st.sampled_from(["bool", "int8", "float16", "float32", "int64"]),
            st.lists(st.integers(0, 3), max_size=3),
        ),
        max_size=6,
    )
)
def test_bytes_agree_for_any_names_and_shapes(tmp_path_factory, tensors):
    arrays = {n: np.ones(shape, dtype) for n, (dtype, shape) in tensors.items()}
    path = tmp_path_factory.mktemp("bytes") / "ours"
    write_file(path, arrays, metadata={})
    assert path.read_bytes() == safetensors.numpy.save(arrays)
    assert_same(open_tensors(path), arrays)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4).T,
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(24.0).reshape(4, 6)[::2, 1::2],
        np.broadcast_to(np.float32(3), (4, 2)),
        np.arange(4, dtype=">i4"),
        np.float32(3),
        np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3).T,
    ],
    ids=["transposed", "fortran", "strided", "broadcast", "big", "scalar", "bf16"],
)
def test_memory_order_does_not_matter(tmp_path, array):
    write_file(tmp_path / "f.safetensors", {"w": array})
    plain = np.array(array.tolist(), np.asarray(array).dtype.newbyteorder("<"))
    assert_same(open_tensors(tmp_path), {"w": plain})


def test_pytorch_reads_it(tmp_path):
    tensors = {"w": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3)}
    write_file(tmp_path / "f", tensors)
    read = safetensors.torch.load_file(tmp_path / "f")["w"]
    assert read.dtype == torch.bfloat16 and read.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_shards_and_index_are_those_of_transformers(tmp_path):
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=64,
    )
    model = LlamaForCausalLM(config)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    model.save_pretrained(theirs, max_shard_size=3000)
    ours.mkdir()
    state = {n: t.numpy() for n, t in model.state_dict().items()}
    write_folder(ours, state, shard_size=3000)
    files = sorted(p.name for p in ours.iterdir())
    assert len(files) > 3
    for file in files:
        assert (ours / file).read_bytes() == (theirs / file).read_bytes(), file


def test_split_gives_a_large_tensor_its_own_file():
    spec = {
        n: Spec((size,), np.dtype(np.uint8))
        for n, size in zip("abcd", (2, 9, 2, 5), strict=True)
    }
    files = split(spec, shard_size=5)
    assert [list(held) for held in files.values()] == [["b"], ["a", "c"], ["d"]]
    assert next(iter(files)) == "model-00001-of-00003.safetensors"
    assert list(split(spec, shard_size=100)) == ["model.safetensors"]
    assert list(split({}, shard_size=1)) == ["model.safetensors"]


@contextmanager
def umask(value):
    before = os.umask(value)
    yield
    os.umask(before)


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_file_mode_follows_the_umask(tmp_path, mask, mode):
    with umask(mask):
        write_folder(tmp_path, {"a": np.ones(9), "b": np.ones(9)}, shard_size=80)
    for file in tmp_path.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == mode, file


def test_any_order_and_nothing_twice(tmp_path):
    specs = {n: Spec((2,), F32) for n in "abc"}
    with SafetensorsWriter(tmp_path, specs, shard_size=16) as writer:
        for name in "cab":
            writer.write(name, np.full(2, ord(name), np.float32))
        with pytest.raises(ValueError, match="'a' was written already"):
            writer.write("a", np.zeros(2, np.float32))
    read = open_tensors(tmp_path)
    assert {n: read[n].tolist() for n in "abc"} == {n: [ord(n)] * 2 for n in "abc"}


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("b", np.zeros(2, np.float32), "'b' was not announced"),
        ("a", np.zeros(3, np.float32), r"float32 of shape \(3,\), but float32 of"),
        ("a", np.zeros((2, 1), np.float32), "shape"),
        ("a", np.zeros(2), "float64 of shape"),
    ],
)
def test_only_what_was_announced(tmp_path, name, array, message):
    writer = SafetensorsWriter(tmp_path, {"a": Spec((2,), F32)})
    with pytest.raises(ValueError, match=message):
        writer.write(name, array)
    writer.abandon()


def test_incomplete_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="1 tensors were never written, 'a' first"):
        with SafetensorsWriter(
            tmp_path, {"a": Spec((2,), F32), "b": Spec((0,), F32)}
        ) as w:
            w.write("b", np.zeros(0, np.float32))


def test_an_error_inside_is_not_hidden(tmp_path):
    with pytest.raises(KeyError):
        with SafetensorsWriter(tmp_path, {"a": Spec((2,), F32)}):
            raise KeyError


def test_existing_files_are_never_touched(tmp_path):
    last = tmp_path / "model-00002-of-00002.safetensors"
    last.write_text("precious")
    with pytest.raises(FileExistsError):
        write_folder(tmp_path, {"a": np.ones(9), "b": np.ones(9)}, shard_size=80)
    with pytest.raises(FileExistsError):
        write_file(last, {})
    assert last.read_text() == "precious"


@pytest.mark.parametrize("name", ["w", "__metadata__"])
def test_what_the_format_cannot_store(tmp_path, name):
    array = np.zeros(2, np.complex128 if name == "w" else np.float32)
    with pytest.raises(ValueError, match="cannot be stored"):
        write_file(tmp_path / "f", {name: array})
    assert not (tmp_path / "f").exists()


def test_index_counts(tmp_path):
    write_folder(tmp_path, {"a": np.ones(9), "b": np.ones((3, 3))}, shard_size=80)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_parameters": 18, "total_size": 144}


def test_error_class_is_a_value_error():
    assert issubclass(FormatError, ValueError)
