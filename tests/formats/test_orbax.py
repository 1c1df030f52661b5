"""Folders of Orbax: what Orbax saves and restores, array by array."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import orbax.checkpoint.experimental.v1 as ocp_v1
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict
from jax.sharding import SingleDeviceSharding
from samples import assert_same, every_type

from mda_jax.converters.formats import (
    FormatError,
    Tensors,
    header_text,
    open_tensors,
    place,
    write_orbax,
)


TREE = {
    "params": {
        "kernel": np.arange(6, dtype=np.float32).reshape(2, 3),
        "half": np.arange(5).astype(jnp.bfloat16),
        "quarter": np.arange(4).astype(jnp.float8_e4m3fn),
        "device": jnp.arange(6, dtype=jnp.int8).reshape(3, 2),
    },
    "list": [np.array([2**40]), np.zeros((2, 2))],
    "flags": np.array([True, False]),
    "scalar": np.array(2.5),
}
FLAT = {
    name: np.asarray(array)
    for name, array in flatten_dict(
        TREE | {"list": {"0": TREE["list"][0], "1": TREE["list"][1]}}, sep="/"
    ).items()
}


def standard(path, tree):
    with ocp.StandardCheckpointer() as saver:
        saver.save(path, tree)


def in_folders(path, tree):
    ocp.PyTreeCheckpointer(use_ocdbt=False).save(path, tree)


def managed(path, tree):
    with ocp.CheckpointManager(path) as manager:
        for step, held in ((2, {"w": np.ones(1)}), (10, tree)):
            manager.save(step, args=ocp.args.StandardSave(held))


def item(path, tree):
    with ocp.CheckpointManager(path) as manager:
        state, plain = ocp.args.StandardSave(tree), ocp.args.JsonSave({"a": 1})
        manager.save(3, args=ocp.args.Composite(state=state, plain=plain))


SAVERS = [standard, in_folders, managed, item, ocp_v1.save]


@pytest.fixture(params=SAVERS, ids=lambda f: f.__name__)
def saved(request, tmp_path):
    request.param(tmp_path / "saved", TREE)
    return tmp_path / "saved"


def test_reads_what_orbax_saves(saved):
    read = open_tensors(saved)
    assert_same(read, FLAT)
    for name, array in FLAT.items():
        assert read.spec(name) == (array.shape, array.dtype)
        part = read.entries(name, slice(1, 5))
        assert part.tobytes() == array.reshape(-1)[1:5].tobytes()
        assert not (array.size and read[name].flags.writeable)
    assert read.part("list/1", (slice(1, 2),)).tolist() == [[0, 0]]
    assert read.ties == {} and [file.name for file in read.files] == ["_METADATA"]


@pytest.mark.parametrize("save", [write_orbax, standard])
def test_relative_paths(tmp_path, monkeypatch, save):
    monkeypatch.chdir(tmp_path)
    save("m" if save is write_orbax else tmp_path / "m", {"w": np.ones(2)})
    assert_same(open_tensors("m"), {"w": np.ones(2)})
    monkeypatch.chdir("m")
    assert_same(open_tensors("."), {"w": np.ones(2)})


def test_plain_values_are_left_out(tmp_path):
    tree = {"w": np.ones(2), "step": 3, "rate": 0.5, "note": "x", "none": None}
    in_folders(tmp_path / "m", tree | {"nothing": {}, "empty": []})
    assert_same(open_tensors(tmp_path / "m"), {"w": np.ones(2)})


class Model(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List(
            [nnx.Linear(2, 3, rngs=rngs), nnx.Linear(3, 2, rngs=rngs)]
        )
        self.norm = nnx.BatchNorm(2, rngs=rngs)


@pytest.mark.parametrize("save", [standard, ocp_v1.save])
def test_the_state_of_nnx_has_the_names_of_its_pure_dictionary(tmp_path, save):
    state = nnx.state(Model(nnx.Rngs(0)))
    pure = flatten_dict(nnx.to_pure_dict(state))
    expected = {"/".join(map(str, k)): np.asarray(v) for k, v in pure.items()}
    save(tmp_path / "state", state)
    save(tmp_path / "pure", nnx.to_pure_dict(state))
    assert_same(open_tensors(tmp_path / "state"), expected)
    assert_same(open_tensors(tmp_path / "pure"), expected)


@pytest.mark.parametrize("chunk", [1 << 22, 16])
def test_orbax_reads_what_is_written(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("mda_jax.converters.formats.orbax.CHUNK", chunk)
    known = {  # by TensorStore; it has nothing else
        name: array
        for name, array in every_type().items()
        if array.dtype.name not in ("float8_e8m0fnu",)
    }
    tensors = {name.replace("/", "."): array for name, array in known.items()}
    tensors |= {f"in/{name}": array for name, array in FLAT.items()}
    tensors["in/turned"] = np.arange(24.0).reshape(2, 3, 4).T
    path = tmp_path / "m"
    write_orbax(path, tensors)
    assert_same(open_tensors(path), tensors)
    for restore in (
        ocp.StandardCheckpointer().restore,
        ocp.PyTreeCheckpointer().restore,
        ocp_v1.load,
    ):
        assert_same(flatten_dict(restore(path), sep="/"), tensors)
    target = {
        "in": {"turned": jax.ShapeDtypeStruct((4, 3, 2), jnp.bfloat16, sharding=here())}
    }
    context = ocp_v1.Context()
    context.pytree.loading.partial_load = True
    with context:
        turned = ocp_v1.load(path, target)["in"]["turned"]
    assert turned.dtype == jnp.bfloat16
    assert turned.tolist() == tensors["in/turned"].tolist()


def here():
    return SingleDeviceSharding(jax.devices()[0])


def test_parts_go_onto_devices(saved):
    names = ["params/half", "params/device"]
    dtypes = {"params/half": jnp.float32}
    shardings = dict.fromkeys(names, here())
    placed = place(open_tensors(saved), shardings, dtypes=dtypes, names=names)
    assert placed["params/half"].dtype == jnp.float32
    assert placed["params/half"].tolist() == [0, 1, 2, 3, 4]
    assert placed["params/device"].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_weights_beside_come_first(tmp_path):
    np.savez(tmp_path / "m.npz", w=np.ones(1))
    write_orbax(tmp_path / "1", {"v": np.ones(1)})
    assert list(open_tensors(tmp_path)) == ["w"]


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": np.ones(1), "a/b": np.ones(1)}, "'a' is a tensor, and so is 'a/b'"),
        ({"a.b": np.ones(1), "a/b": np.ones(1)}, "'a/b' of type float64 cannot be"),
        ({"a": np.ones(1, "c16")}, "'a' of type complex128 cannot be stored"),
        ({"": np.ones(1)}, "'' of type float64 cannot be stored"),
        ({"..": np.ones(1)}, "'..' of type float64 cannot be stored"),
    ],
)
def test_what_the_format_cannot_store(tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        write_orbax(tmp_path / "m", tensors)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_never_touched(tmp_path):
    (tmp_path / "m").mkdir()
    with pytest.raises(FileExistsError, match="give another path"):
        write_orbax(tmp_path / "m", {"w": np.ones(1)})


def node(*keys, kind="np.ndarray"):
    parts = [{"key": key, "key_type": 2} for key in keys]
    return {"key_metadata": parts, "value_metadata": {"value_type": kind}}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"a": node("w")}, None),
        ({"a": node("x")}, "no array 'x'"),
        ({"a": node("..", "m", "w")}, "no array"),
        ({"a": node("../m/w")}, "expected no slash in it"),
        ({"a": node("w"), "b": node("w")}, "two arrays 'w'"),
        ({"a": node(7)}, "the key .*expected a name"),
        ({"a": node("")}, "the key .*expected a name"),
        (
            {"a": {"key_metadata": ["w"], "value_metadata": node()["value_metadata"]}},
            "key",
        ),
        ({"a": 3}, "'3' in the metadata; expected keys and a value"),
        (3, "no tree_metadata"),
    ],
)
def test_metadata_that_lie(tmp_path, tree, message):
    path = tmp_path / "m"
    write_orbax(path, {"w": np.ones(3)})
    (path / "_METADATA").write_text(json.dumps({"tree_metadata": tree}))
    if message is None:
        assert_same(open_tensors(path), {"w": np.ones(3)})
    else:
        with pytest.raises(FormatError, match=message):
            open_tensors(path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shape", [2**60], "chunks within the array"),
        ("shape", [2**40], "8796093022208 bytes in .*; expected at most 1000 times"),
        ("shape", [-1], "no array"),
        ("chunks", [2**40], "chunks within the array"),
        ("dtype", "<c16", "of type complex128; expected one of bool"),
        ("dtype", "object", "no array"),
        ("compressor", {"id": "pickle"}, "no array"),
    ],
)
def test_arrays_that_lie(tmp_path, field, value, message):
    path = tmp_path / "m"
    write_orbax(path, {"w": np.ones(3)})
    array = json.loads((path / "w/.zarray").read_text())
    (path / "w/.zarray").write_text(json.dumps(array | {field: value}))
    with pytest.raises(FormatError, match=message):
        open_tensors(path)


def test_lost_and_damaged_data(tmp_path):
    for save in (write_orbax, standard):
        path = tmp_path / save.__name__
        save(path, {"w": np.arange(1000.0)})
        data = path / "w/0" if save is write_orbax else next((path / "d").iterdir())
        whole = data.read_bytes()
        for damaged in (whole[: len(whole) // 2], b"", whole[:-9] + bytes(9)):
            data.write_bytes(damaged)
            with pytest.raises(FormatError):
                Tensors(path)["w"]
        data.unlink()
        with pytest.raises(FormatError):
            Tensors(path)["w"]


def test_several_trees_and_none(tmp_path):
    write_orbax(tmp_path / "a", {"w": np.ones(1)})
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FormatError, match="2 trees of arrays: a, b; expected one"):
        open_tensors(tmp_path)
    (tmp_path / "c/_METADATA").parent.mkdir()
    (tmp_path / "c/_METADATA").write_text("[" * 100_000)
    with pytest.raises(FormatError, match="no valid JSON"):
        open_tensors(tmp_path / "c")
    (tmp_path / "d/x").mkdir(parents=True)
    with pytest.raises(FormatError, match="no weights"):
        open_tensors(tmp_path / "d")


def test_another_save_has_another_header(tmp_path):
    texts = []
    for number in (1.0, 2.0):
        path = tmp_path / str(number)
        standard(path, {"w": np.full(3, number)})
        (file,) = open_tensors(path).files
        assert header_text(file) == header_text(file)
        texts.append(header_text(file))
    assert texts[0] != texts[1]
