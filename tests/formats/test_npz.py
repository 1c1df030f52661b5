"""NumPy's archives: what numpy.load gives, mapped."""

import io
import json
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from samples import assert_same, every_type

from mda_jax.converters.formats import FormatError, open_tensors, write_npz


ARRAYS = {
    "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
    "params/block/kernel": np.arange(24.0).reshape(2, 3, 4).T,
    "turned": np.asfortranarray(np.arange(6, dtype=np.int16).reshape(2, 3)),
    "scalar": np.array(3),
    "empty": np.zeros((0, 3), np.float16),
    "flags": np.array([True, False]),
    "bytes": np.arange(3, dtype=np.uint8),
    "half": np.arange(4).astype(ml_dtypes.bfloat16).reshape(2, 2).T,
}


def written(path, arrays=ARRAYS):
    np.savez(path, **arrays)
    return path


def test_arrays_of_every_order(tmp_path):
    written(tmp_path / "weights.npz")
    for path in (tmp_path, tmp_path / "weights.npz"):
        read = open_tensors(path)
        assert_same(read, ARRAYS)
        for name, array in ARRAYS.items():
            assert read.spec(name) == (array.shape, array.dtype)
            part = read.entries(name, slice(1, 5)).astype(float)
            assert part.tolist() == array.reshape(-1)[1:5].astype(float).tolist()


def test_numpys_other_versions(tmp_path):
    for version in ((1, 0), (2, 0), (3, 0)):
        buffer = io.BytesIO()
        np.lib.format.write_array(buffer, ARRAYS["turned"], version)
        with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
            archive.writestr("w.npy", buffer.getvalue())
        assert_same(open_tensors(tmp_path), {"w": ARRAYS["turned"]})


def header(text, data=bytes(8), size=None):
    """An array with a header of one's own."""
    length = len(text) if size is None else size
    return b"\x93NUMPY\1\0" + length.to_bytes(2, "little") + text + data


GOOD = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header(GOOD, bytes(9)), "'w.npy' with 9 bytes; expected 8 for <f4"),
        (header(GOOD.replace(b"2", b"3")), "'w.npy' with 8 bytes; expected 12"),
        (header(GOOD.replace(b"<f4", b">f4")), "of type >f4 .*; expected integers"),
        (header(GOOD.replace(b"<f4", b"|V1")), "of type |V1 .*; expected integers"),
        (header(GOOD.replace(b"<f4", b"<U1")), "of type <U1 .*; expected integers"),
        (header(GOOD.replace(b"2,", b"0, %d" % 2**62)), "of type <f4 and shape"),
        (header(GOOD.replace(b"<f4", b"|O")), "expected a plain array of numbers"),
        (header(GOOD.replace(b"False", b"exit()")), "expected a plain array of numb"),
        (header(GOOD.replace(b"2", b"-2")), "expected a plain array of numbers"),
        (header(GOOD.replace(b"2", b"9" * 5000)), "expected a plain array of numbers"),
        (header(GOOD, size=9999), "a header of 9999 bytes; expected one that fits"),
        (b"\x93NUMPY\1\0\1", "a header of .* bytes; expected one that fits"),
        (b"\x93NUMPY\7\0\1\0", "'w.npy' that starts with .*; expected an array of"),
        (b"", "'w.npy' that starts with b''; expected an array of NumPy"),
    ],
)
def test_headers_that_are_refused(tmp_path, content, message):
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("w.npy", content)
    with pytest.raises(FormatError, match=message):
        open_tensors(tmp_path)


def test_archives_that_are_refused(tmp_path):
    path = tmp_path / "m.npz"
    np.savez_compressed(path, w=np.ones(3))
    with pytest.raises(FormatError, match=r"1 compressed \('w.npy'\).*numpy.savez"):
        open_tensors(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data.pkl", b"N.")
    with pytest.raises(FormatError, match=r"a member 'data.pkl'; expected names that"):
        open_tensors(path)
    np.savez(path, w=np.array([print], object))
    with pytest.raises(FormatError, match="expected a plain array of numbers"):
        open_tensors(path)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_flipped_bytes_raise_one_error_or_change_no_extent(tmp_path_factory, data):
    path = written(tmp_path_factory.getbasetemp() / "m.npz", {"w": np.arange(3.0)})
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(damaged) - 1))
        damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    try:
        (array,) = open_tensors(path).values()
    except FormatError as e:
        assert str(path) in str(e) and "expected" in str(e) and "\n" not in str(e)
    else:
        assert array.nbytes == 24


def test_writes_numpys_bytes(tmp_path):
    np.savez(tmp_path / "theirs.npz", **ARRAYS)
    write_npz(tmp_path / "ours.npz", ARRAYS)
    ours = (tmp_path / "ours.npz").read_bytes()
    assert ours == (tmp_path / "theirs.npz").read_bytes()


def test_every_type_is_written(tmp_path):
    path = tmp_path / "m.npz"
    tensors = every_type() | {"big": np.arange(3, dtype=">i4"), "one": np.float32(1)}
    write_npz(path, tensors)
    expected = tensors | {"big": np.arange(3, dtype="<i4"), "one": np.array(1, "f4")}
    assert_same(open_tensors(path), expected)
    known = {n: a for n, a in expected.items() if a.dtype.isbuiltin == 1}
    assert_same({n: np.load(path)[n] for n in known}, known)


@pytest.mark.parametrize(
    ("name", "array"),
    [("w", np.ones(1, "c16")), ("w\0", np.ones(1)), ("w", np.array([print], object))],
)
def test_what_the_format_cannot_store(tmp_path, name, array):
    with pytest.raises(ValueError, match=r"m.npz: 'w.* cannot be stored"):
        write_npz(tmp_path / "m.npz", {name: array})
    assert not list(tmp_path.iterdir())


def test_existing_files_are_never_touched(tmp_path):
    (tmp_path / "m.npz").write_text("precious")
    with pytest.raises(FileExistsError):
        write_npz(tmp_path / "m.npz", {})
    assert (tmp_path / "m.npz").read_text() == "precious"


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ('{"w": "float8_e5m2"}', None),
        ("{}", "'w.npy' of type |V1"),
        ('{"w": "object"}', "types, each of float8_"),
        ('{"w": ["float8_e5m2"]}', "types, each of float8_"),
        ('"float8_e5m2"', "types, each of float8_"),
        ("3", "types, each of float8_"),
        ("[" * 100_000, "types, each of float8_"),
        ('{"v": "float8_e5m2", "w": "float8_e5m2"}', "'v.npy' of type <f4"),
        ('{"x": "float8_e5m2", "w": "float8_e5m2"}', "the type of 'x'; expected such"),
    ],
)
def test_records_of_types(tmp_path, record, message):
    path = tmp_path / "m.npz"
    np.savez(path, w=np.ones(3, ml_dtypes.float8_e4m3fn), v=np.ones(2, np.float32))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("dtypes.json", record)
    if message is None:
        assert open_tensors(path)["w"].tolist() == [0.5] * 3  # the bits of 1.0
    else:
        with pytest.raises(FormatError, match=message):
            open_tensors(path)


def test_a_record_that_would_fill_the_memory(tmp_path):
    path = tmp_path / "m.npz"
    np.savez(path, w=np.ones(3))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("dtypes.json", bytes(1 << 26))
    with pytest.raises(FormatError, match=r"1 compressed \('dtypes.json'\)"):
        open_tensors(path)
    np.savez(path, w=np.ones(3))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("dtypes.json", bytes((1 << 24) + 1))
    with pytest.raises(
        FormatError, match=r"dtypes.json of 16777217 bytes; expected at"
    ):
        open_tensors(path)


def test_a_damaged_record(tmp_path):
    path = tmp_path / "m.npz"
    write_npz(path, {"w": np.ones(3, ml_dtypes.float8_e5m2)})
    damaged = path.read_bytes().replace(json.dumps("w").encode(), b'"v"')
    path.write_bytes(damaged)
    with pytest.raises(FormatError, match=r"dtypes.json damaged; expected"):
        open_tensors(path)
