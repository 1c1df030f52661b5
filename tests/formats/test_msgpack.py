"""Flax's own files: what flax.serialization writes and gives, mapped."""

import json

import flax.serialization
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from hypothesis import given, settings, strategies as st
from samples import assert_same, every_type, outcome

from mda_jax.converters.formats import (
    FormatError,
    open_tensors,
    outline,
    write_msgpack,
    write_outlined,
)


TREE = {
    "params": {
        "dense": {"kernel": np.arange(6.0).reshape(2, 3).T, "bias": jnp.ones(3)},
        "0": {"scale": np.array(2.5, np.float16), "empty": np.zeros((0, 3), np.int8)},
        "half": jnp.arange(5).astype(jnp.bfloat16),
        "quarter": np.arange(4).astype(jnp.float8_e4m3fn),
        "a" * 300: np.arange(70_000, dtype=np.uint8),
        "scalar": np.float32(1.5),
    },
    "é": np.array([True, False]),
    **{f"layer_{i}": {"w": np.full((i, 2), i, np.int32)} for i in range(20)},
}


def flat(tree=TREE):
    return flatten_dict(tree, sep="/")


@pytest.fixture(params=[1 << 30, 40], ids=["whole", "pieces"])
def largest(request, monkeypatch):
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", request.param)
    monkeypatch.setattr(
        "mda_jax.converters.formats.msgpack.LARGEST_PIECE", request.param
    )


def test_reads_and_writes_flaxs_bytes(tmp_path, largest):
    written = flax.serialization.to_bytes(TREE)
    path = tmp_path / "flax_model.msgpack"
    path.write_bytes(written)
    read = open_tensors(tmp_path)
    expected = {name: np.asarray(array) for name, array in flat().items()}
    assert list(read) == list(expected)
    assert_same(read, expected)
    for name, array in expected.items():
        assert read.spec(name) == (array.shape, array.dtype)
        part = read.entries(name, slice(3, 17))
        assert part.tobytes() == array.reshape(-1)[3:17].tobytes()
    again = tmp_path / "again.msgpack"
    write_msgpack(again, flat())
    assert again.read_bytes() == written
    arrays = {
        n: a for n, a in sorted(flat().items(), key=lambda item: item[0].split("/"))
    }
    again.unlink()
    write_msgpack(again, arrays)
    assert again.read_bytes() == flax.serialization.msgpack_serialize(TREE)


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/"))


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(names, st.dictionaries(names, st.sampled_from(range(7)))))
def test_bytes_agree_for_any_names(tmp_path_factory, tree):
    arrays = list(every_type().values())
    tree = {a: {b: arrays[i] for b, i in inner.items()} for a, inner in tree.items()}
    tree = {a: inner for a, inner in tree.items() if inner}
    path = tmp_path_factory.mktemp("names") / "m.msgpack"
    write_msgpack(path, flatten_dict(tree, sep="/"))
    assert path.read_bytes() == flax.serialization.to_bytes(tree)
    assert_same(open_tensors(path), flatten_dict(tree, sep="/"))


def test_every_type(tmp_path):
    write_msgpack(tmp_path / "m.msgpack", every_type())
    assert_same(open_tensors(tmp_path), every_type())
    back = flax.serialization.msgpack_restore((tmp_path / "m.msgpack").read_bytes())
    assert_same(back, every_type())


def test_shards_with_an_index(tmp_path):
    shards = [dict(list(flat().items())[i::2]) for i in range(2)]
    places = {}
    for i, shard in enumerate(shards):
        file = f"flax_model-0000{i + 1}-of-00002.msgpack"
        tree = unflatten_dict(shard, sep="/")
        (tmp_path / file).write_bytes(flax.serialization.to_bytes(tree))
        places |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps(index))
    assert_same(open_tensors(tmp_path), {n: np.asarray(a) for n, a in flat().items()})


def test_lists_and_plain_values(tmp_path):
    tree = {"step": 3, "z": 1j, "note": "x", "none": None, "lr": 0.5, "raw": b"xy"}
    tree |= {"blocks": [{"w": np.ones(2)}, {"w": np.zeros(3)}], 7: np.ones(1)}
    (tmp_path / "m.msgpack").write_bytes(
        msgpack.packb(tree, default=flax.serialization._msgpack_ext_pack)
    )
    read = open_tensors(tmp_path)
    assert list(read) == ["blocks/0/w", "blocks/1/w", "7"]


def test_outlines(tmp_path, largest):
    path, other = tmp_path / "m.msgpack", tmp_path / "n.msgpack"
    path.write_bytes(flax.serialization.to_bytes(TREE))
    if flax.serialization.MAX_CHUNK_SIZE == 40:
        with pytest.raises(FormatError, match="in pieces; expected whole tensors"):
            outline(path)
    else:
        write_outlined(other, outline(path), open_tensors(path))
        assert other.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": np.ones(1), "a/b": np.ones(1)}, "'a' is a tensor, and so is 'a/b'"),
        ({"a/b": np.ones(1), "a": np.ones(1)}, "'a' is a tensor, and so are others"),
        ({"a": np.ones(1, "c16")}, "'a' of type complex128 cannot be stored"),
    ],
)
def test_what_the_format_cannot_store(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        write_msgpack(tmp_path / "m.msgpack", arrays)
    assert not list(tmp_path.iterdir())


def array(shape=(2,), dtype="float32", data=bytes(8), code=1):
    return msgpack.ExtType(code, msgpack.packb((shape, dtype, data)))


def pieces(shape, *chunks):
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(shape)},
        "chunks": {str(i): chunk for i, chunk in enumerate(chunks)},
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": array((3,))}, r"8 bytes for float32 of shape \(3,\); expected 12"),
        ({"w": array((-2,))}, "the shape .*; expected at most 64 sizes"),
        ({"w": array((True, 2))}, "expected at most 64 sizes"),
        ({"w": array(([2],))}, "a shape of other than numbers"),
        ({"w": array((1,) * 65)}, "an array without a shape"),
        ({"w": array((0, 2**60), data=b"")}, "expected at most 64 sizes"),
        ({"w": array(dtype="object")}, "an array of type 'object'"),
        ({"w": array(dtype="int4")}, "an array of type 'int4'"),
        ({"w": array(dtype=7)}, "an array without a type"),
        ({"w": array(data=[1, 2])}, "an array without numbers"),
        ({"w": msgpack.ExtType(1, b"\x92\x90\x90")}, "an array of other parts"),
        ({"w": msgpack.ExtType(1, b"\x83\x90\x90")}, "an array of other parts"),
        ({"w": msgpack.ExtType(1, array().data + b"\0")}, "an array up to byte"),
        ({"w": array(code=4)}, "an extension of type 4"),
        ({"w": array(code=-1 % 128)}, "an extension of type 127"),
        ({"a/b": array(), "a": {"b": array()}}, "two arrays 'a/b'"),
        ({b"k": array()}, "a key that is no text"),
        ({None: array()}, "a key that is no text"),
        (3, "a int; expected a dictionary"),
        (array(), "a Entry; expected a dictionary"),
        ({"w": pieces((4,), array(), array())}, None),
        ({"w": pieces((5,), array(), array())}, "4 entries of shape"),
        ({"w": pieces((2,), array(), array())}, "4 entries of shape"),
        ({"w": pieces((2,), array((2, 1)))}, "an array in odd pieces"),
        ({"w": pieces((4,), array(), array(dtype="int32"))}, "an array in odd pieces"),
        ({"w": pieces((4,), array(), 3)}, "an array in odd pieces"),
        ({"w": pieces((0,))}, "an array in odd pieces"),
        (
            {"w": pieces((4,), array()) | {"shape": 4}},
            r"2 entries of shape \(\); expected 1",
        ),
        ({"w": pieces((-4,), array())}, "expected at most 64 sizes"),
    ],
)
def test_broken_promises(tmp_path, content, message):
    path = tmp_path / "m.msgpack"
    path.write_bytes(msgpack.packb(content))
    if message is None:
        assert open_tensors(path)["w"].shape == (4,)
    else:
        with pytest.raises(FormatError, match=message):
            open_tensors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "1 bytes at 0 of 0; expected the whole file"),
        (b"\x81\xa1w" * 100_000, "dictionaries inside each other"),
        (b"\x91" * 100_000, "dictionaries inside each other"),
        (b"\x81\xa1w\xdd\xff\xff\xff\xff" + bytes(1100), "too many values"),
        (b"\xdf\xff\xff\xff\xff\xa1w\xc0", "expected the whole file"),
        (b"\x81\xa1w\xc9\xff\xff\xff\xff\x01", "expected the whole file"),
        (b"\x81\xdb\xff\xff\xff\xffw", "4294967295 bytes at 6"),
        (b"\x82\xa1w\xc0\xa1w\xc0", "two keys 'w'"),
        (b"\x82\xa10\xc0\x00\xc0", "two keys '0'"),
        (b"\x81\xa1\xff\xc0", "the name .*; expected UTF-8"),
        (b"\x81\xa1w\xc1", "the byte 0xc1"),
        (b"\x80\x80", "1 bytes after the end"),
        (b"\x80\x04\x95", "2 bytes after the end"),
    ],
)
def test_damaged_files(tmp_path, content, message, monkeypatch):
    monkeypatch.setattr("mda_jax.converters.formats.msgpack.MOST", 1000)
    path = tmp_path / "m.msgpack"
    path.write_bytes(content)
    with pytest.raises(FormatError, match=message):
        open_tensors(path)


def test_truncated_and_flipped_files(tmp_path):
    path = tmp_path / "m.msgpack"
    intact = flax.serialization.to_bytes({"a": {"w": np.ones(3)}, "b": np.ones((1, 2))})
    for length in range(len(intact)):
        assert outcome(path, intact[:length]) is None
        for flip in (1, 2, 16, 128, 255):
            damaged = bytearray(intact)
            damaged[length] ^= flip
            outcome(path, bytes(damaged))
