"""Files for PyTorch, as torch.load reads them."""

import os
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch
from samples import assert_same, every_type

from mda_jax.converters.formats import open_tensors, write_pytorch
from mda_jax.converters.formats.dtypes import NUMPY


def bits(tensor):
    flat = tensor.flatten().clone(memory_format=torch.contiguous_format)
    return bytes(flat.untyped_storage())


@pytest.mark.parametrize("mmap", [False, True])
def test_every_type_and_memory_order(tmp_path, mmap):
    path = tmp_path / "pytorch_model.bin"
    tensors = every_type() | {
        "turned": np.arange(24.0).reshape(2, 3, 4).T,
        "big": np.arange(3, dtype=">i4"),
        "nothing": np.zeros((3, 0), ml_dtypes.float8_e5m2),
        "scalar": np.array(3, ml_dtypes.bfloat16),
        "number": np.float32(2),
        "nan": np.array([0x7FC01234, 0xFF800001], "u4").view("f4"),
    }
    write_pytorch(path, tensors)
    read = torch.load(path, weights_only=True, mmap=mmap)
    assert list(read) == list(tensors)
    for name, array in tensors.items():
        little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
        assert tuple(read[name].shape) == array.shape and read[name].is_contiguous()
        assert str(read[name].dtype) == f"torch.{array.dtype.name}", name
        assert bits(read[name]) == little.tobytes(), name
        assert read[name].data_ptr() % 64 == 0 or not array.size, name
    expected = {n: a.astype(a.dtype.newbyteorder("<")) for n, a in tensors.items()}
    assert_same(open_tensors(tmp_path), expected)
    assert zipfile.ZipFile(path).testzip() is None
    assert os.listdir(tmp_path) == ["pytorch_model.bin"]


def test_it_is_a_state_dict(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    write_pytorch(tmp_path / "m.pt", state)
    read = torch.load(tmp_path / "m.pt", weights_only=True)
    assert type(read) is type(model.state_dict())
    model.load_state_dict(read, strict=True)


def test_what_is_tied_is_stored_once(tmp_path):
    path, apart = tmp_path / "m.bin", tmp_path / "apart.bin"
    w = np.arange(3000, dtype=np.float32).reshape(30, 100)
    tensors = {"head": w, "body": np.ones(3), "embed": w.copy(), "other": w.copy()}
    write_pytorch(apart, tensors)
    write_pytorch(path, tensors, ties={"head": "embed", "other": "embed"})
    assert apart.stat().st_size - path.stat().st_size > 2 * w.nbytes
    assert open_tensors(path).ties == {"embed": "head", "other": "head"}
    assert_same(open_tensors(path), tensors)
    read = torch.load(path, weights_only=True)
    assert list(read) == list(tensors)
    places = {read[n].data_ptr() for n in ("head", "embed", "other")}
    assert len(places) == 1 and read["head"].tolist() == w.tolist()


@pytest.mark.parametrize(
    ("change", "ties", "message"),
    [
        ({"a": np.ones(2, "c16")}, {}, "'a' of type complex128 cannot be stored"),
        ({}, {"a": "x"}, "'a' cannot be tied to 'x'"),
        ({}, {"x": "a"}, "'x' cannot be tied to 'a'"),
        ({}, {"a": "a"}, "'a' cannot be tied to 'a'"),
        ({}, {"a": "b", "b": "c"}, "'a' cannot be tied to 'b'"),
        ({"a": np.ones((1, 2))}, {"a": "b"}, "'a' cannot be tied to 'b'"),
        ({"a": np.array([1.0, -0.0])}, {"a": "b"}, "'a' differs from 'b'"),
    ],
)
def test_what_is_refused(tmp_path, change, ties, message):
    tensors = {name: np.array([1.0, 0.0]) for name in "abc"} | change
    with pytest.raises(ValueError, match=message):
        write_pytorch(tmp_path / "m.bin", tensors, ties=ties)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", NUMPY)
def test_our_bytes_are_pytorchs_numbers(tmp_path, code):
    array = np.arange(3).astype(NUMPY[code])
    write_pytorch(tmp_path / "m.bin", {"w": array})
    read = torch.load(tmp_path / "m.bin", weights_only=True)["w"]
    if code != "F8_E8M0":  # has no zero
        assert read.to(torch.complex128).tolist() == array.astype("c16").tolist()
