"""Files written once more from their outlines are the same files."""

import json
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from samples import assert_same, every_type

from mda_jax.converters.formats import (
    FormatError,
    open_tensors,
    outline,
    write_file,
    write_outlined,
)


def again(path, tensors=None):
    """The bytes of the file written from its outline, through JSON and back."""
    held = json.loads(json.dumps(outline(path)))
    other = path.with_name(f"again{path.suffix}")
    write_outlined(other, held, open_tensors(path) if tensors is None else tensors)
    assert sorted(p.name for p in path.parent.iterdir()) == sorted(
        [path.name, other.name]
    )
    data = other.read_bytes()
    other.unlink()
    return data


def safetensors_bytes(draw, tensors):
    """A legal file in an order, a spelling and a padding of the writer's own."""
    names = draw(st.permutations(list(tensors)))
    data, table = b"", {}
    for name in names:
        held = tensors[name].tobytes()
        table[name] = {
            "data_offsets": [len(data), len(data) + len(held)],
            "dtype": {"float32": "F32", "bfloat16": "BF16", "bool": "BOOL"}[
                tensors[name].dtype.name
            ],
            "shape": list(tensors[name].shape),
        }
        data += held
    items = [*table.items(), ("__metadata__", draw(metadata))]
    text = json.dumps(
        dict(draw(st.permutations(items))),
        indent=draw(st.sampled_from([None, 0, 3])),
        ensure_ascii=draw(st.booleans()),
    ).encode()
    text += b" " * draw(st.integers(0, 9))
    return struct.pack("<Q", len(text)) + text + data


metadata = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
    max_size=3,
)
ARRAYS = {
    "b.é": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
    "a": np.array([np.nan, -0.0, 2], np.float32),
    "c": np.zeros((0, 2), np.float32),
    "d": np.array(True),
}


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_legal_safetensors_file(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("legal") / "m.safetensors"
    path.write_bytes(safetensors_bytes(data.draw, ARRAYS))
    order = data.draw(st.permutations(list(ARRAYS)))
    turned = {n: ARRAYS[n].copy(order="F") for n in order}
    assert again(path, turned) == path.read_bytes()


def test_every_type_lazily_and_with_other_numbers(tmp_path):
    path = tmp_path / "m.safetensors"
    tensors = every_type()
    write_file(path, tensors)
    assert again(path) == path.read_bytes()
    others = every_type(seed=1)
    held = outline(path)
    path.unlink()
    write_outlined(path, held, others)
    assert_same(open_tensors(path), others)


def pytorch_tensors():
    whole = torch.arange(24.0).reshape(4, 6)
    return {
        "a": torch.ones(2, 3, dtype=torch.bfloat16),
        "turned": torch.arange(6).reshape(2, 3).T,
        "tied": whole,
        "with": whole,
        "part": torch.arange(24)[5:9],
        "strided": torch.arange(24.0).reshape(4, 6)[::2, 1::2],
        "expanded": torch.ones(3, 1).expand(3, 5),
        "row": whole[1:3].T,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(3.0),
    }


@pytest.mark.parametrize("checked", [True, False])
def test_pytorch_files_with_any_views(tmp_path, checked):
    path = tmp_path / "m.bin"
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(checked)
    torch.save({"epoch": 3, "state": pytorch_tensors()}, path)
    torch.serialization.set_crc32_options(before)
    assert again(path) == path.read_bytes()


def test_checksums_follow_the_numbers(tmp_path):
    path = tmp_path / "m.bin"
    torch.save(pytorch_tensors(), path)
    tensors = {name: array * 0 for name, array in open_tensors(path).items()}
    data = again(path, tensors)
    assert data != path.read_bytes()
    path.write_bytes(data)
    assert zipfile.ZipFile(path).testzip() is None
    read = torch.load(path, weights_only=True)
    assert {n: float(t.abs().sum()) for n, t in read.items()} == dict.fromkeys(read, 0)
    arrays = {"w": np.arange(6.0).reshape(2, 3).T, "v": np.arange(3)}
    np.savez(tmp_path / "m.npz", **arrays)
    path.unlink()
    path = tmp_path / "m.npz"
    assert again(path) == path.read_bytes()
    data = again(path, {name: array + 1 for name, array in arrays.items()})
    path.write_bytes(data)
    assert np.load(path)["w"].tolist() == (arrays["w"] + 1).tolist()


def test_what_is_refused(tmp_path):
    path, other = tmp_path / "m.bin", tmp_path / "other.bin"
    torch.save(pytorch_tensors(), path)
    tensors = dict(open_tensors(path))
    held = outline(path)
    for change, message in [
        ({"tied": tensors["tied"] + 1}, "shares numbers with others"),
        ({"expanded": np.arange(15, dtype="f4").reshape(3, 5)}, "'expanded' shares"),
        ({"a": tensors["a"].astype("f4")}, "'a' is float32 of .* outline has bfloat16"),
        ({"row": tensors["row"].T}, r"of shape \(2, 6\), but"),
        ({"more": tensors["a"]}, "'more' is in the tensors, but not in the outline"),
    ]:
        with pytest.raises(ValueError, match=message):
            write_outlined(other, held, tensors | change)
    with pytest.raises(ValueError, match="'a' is in the outline, but not"):
        write_outlined(other, held, {n: t for n, t in tensors.items() if n != "a"})
    with pytest.raises(FormatError):
        write_outlined(other, held | {"size": held["size"] + 1}, tensors)
    with pytest.raises(FileExistsError, match="give another path"):
        write_outlined(path, held, tensors)
    assert [p.name for p in tmp_path.iterdir()] == ["m.bin"]


def test_a_file_that_is_mostly_no_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr("mda_jax.converters.formats.outlines.LARGEST_OUTLINE", 2000)
    torch.save({"part": torch.arange(500.0)[:1]}, tmp_path / "m.bin")
    with pytest.raises(FormatError, match="bytes outside of its tensors; expected at"):
        outline(tmp_path / "m.bin")
