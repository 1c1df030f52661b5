"""NumPy's archives: what numpy.load gives, mapped."""

import io
import zipfile

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from samples import assert_same

from mda_jax.converters.formats import FormatError, open_tensors


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
