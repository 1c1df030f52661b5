"""Whatever happens to a file, the reader says so with its one exception."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from samples import outcome

from mda_jax.converters.formats import FormatError, open_tensors, write_file


TENSORS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.bias": np.arange(3, dtype=np.float16),
    "steps": np.array(7),
}


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    path = tmp_path_factory.mktemp("intact") / "m.safetensors"
    write_file(path, TENSORS)
    return path.read_bytes()


def test_every_truncation_is_found(intact, tmp_path):
    for length in range(len(intact)):
        assert outcome(tmp_path / "m.safetensors", intact[:length]) is None, length
    assert outcome(tmp_path / "m.safetensors", intact + b"\0") is None
    assert outcome(tmp_path / "m.safetensors", intact) is not None


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_flipped_header_bytes_raise_one_error_or_change_no_extent(
    intact, tmp_path_factory, data
):
    (length,) = struct.unpack("<Q", intact[:8])
    where = data.draw(st.lists(st.integers(0, 7 + length), min_size=1, max_size=4))
    damaged = bytearray(intact)
    for i in where:
        damaged[i] ^= data.draw(st.integers(1, 255))
    read = outcome(tmp_path_factory.getbasetemp() / "m.safetensors", bytes(damaged))
    assert read is None or len(read) == len(TENSORS)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_json_in_place_of_a_value(tmp_path_factory, data):
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    key = data.draw(st.sampled_from([*entry, "extra", "entry", "metadata", "all"]))
    value = data.draw(json_values)
    table = {"w": entry | {key: value}}
    if key in ("entry", "metadata"):
        table = {"w": entry, "__metadata__" if key == "metadata" else "w": value}
    text = json.dumps(value if key == "all" else table).encode()
    outcome(
        tmp_path_factory.getbasetemp() / "m.safetensors",
        struct.pack("<Q", len(text)) + text + bytes(8),
    )


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"w": entry("F4", (16,))}, "of type F4; expected a type that NumPy can hold"),
        ({"w": entry("F33")}, "of type 'F33'; expected one of BOOL"),
        ({"w": entry("F64")}, "with 8 bytes; expected 16 bytes for F64"),
        ({"w": entry(offsets=(8, 0))}, "expected two increasing offsets"),
        ({"w": entry(offsets=(0, 8, 8))}, "expected two increasing offsets"),
        ({"w": entry(shape=(True, 2))}, "expected at most 64 sizes"),
        ({"w": entry(shape=(-1, -2))}, "expected at most 64 sizes"),
        ({"w": entry(shape=(0, 2**60), offsets=(0, 0))}, "expected at most 64 sizes"),
        ({"w": entry(shape=[1] * 65)}, "expected at most 64 sizes"),
        ({"w": entry() | {"scale": 1}}, "expected an object with the keys"),
        ({"w": entry(), "v": entry()}, "overlaps the tensor before it"),
        ({"w": entry("U8", (4,), (4, 8))}, "leaves a hole"),
        ({"w": entry("U8", (4,), (0, 4))}, "longer than its header says"),
        ({"w": entry("U8", (9,), (0, 9))}, "truncated"),
        ({"__metadata__": {"a": 1}, "w": entry()}, "a map of strings to strings"),
        ('{"w": {}, "w": {}}', "duplicate key 'w'"),
        ('{"w": NaN}', "constant NaN"),
        ('{"\\ud800": {}}', "surrogates"),
        ("[]", "expected a JSON object"),
        ("{" + '"a":[' * 100_000, "not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_broken_promises_by_name(tmp_path, header, message):
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(FormatError, match=message):
        open_tensors(path)


def test_a_header_larger_than_the_format_allows(tmp_path):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_001))
        file.truncate(200_000_000)  # sparse: nothing is written
    with pytest.raises(FormatError, match="a header of 100000001 bytes"):
        open_tensors(path)
