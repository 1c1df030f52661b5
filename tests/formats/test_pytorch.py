"""PyTorch's own files: what torch.load gives, and nothing else."""

import io
import json
import pickle
import struct
import warnings
import zipfile
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from samples import outcome

from mda_jax.converters.formats import FormatError, open_tensors, write_folder
from mda_jax.converters.formats.pytorch import _DTYPES, LARGEST_PICKLE


def saved(content, **options):
    """The bytes of a file by torch.save."""
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def packed(program, storages=(b"",), **others):
    """An archive with a pickle of one's own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", program)
        for key, data in enumerate(storages):
            archive.writestr(f"m/data/{key}", data)
        for name, data in others.items():
            archive.writestr(f"m/{name}", data)
    return buffer.getvalue()


@pytest.fixture
def at(tmp_path):
    """Open the file with some bytes, or what `torch.save` makes of a content."""

    def opened(content):
        data = content if isinstance(content, bytes) else saved(content)
        (tmp_path / "pytorch_model.bin").write_bytes(data)
        return open_tensors(tmp_path)

    return opened


def assert_equal(read, tensors):
    """Every tensor has the shape, type and bits that PyTorch says."""
    assert list(read) == list(tensors)
    for name, tensor in tensors.items():
        array, spec = read[name], read.spec(name)
        flat = tensor.detach().flatten().clone(memory_format=torch.contiguous_format)
        bits = bytes(flat.untyped_storage())
        assert array.shape == spec.shape == tuple(tensor.shape), name
        assert array.dtype == spec.dtype, name
        assert f"torch.{array.dtype.name}" == str(tensor.dtype), name
        assert array.tobytes() == bits, name
        assert not (array.size and array.flags.writeable), name
        assert read.entries(name, slice(0, spec.size)).tobytes() == bits, name


@pytest.mark.parametrize("dtype", _DTYPES)
def test_every_type(at, dtype):
    numbers = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    tensors = {"w": numbers, "turned": numbers.T, "scalar": numbers[1, 1].clone()}
    assert_equal(at(tensors), tensors)


def test_awkward_tensors(at):
    whole = torch.arange(24.0).reshape(4, 6)
    parameter = torch.nn.Parameter(whole.clone())
    parameter.note = "with an attribute"
    noted = torch.ones(2)
    noted.note = 3
    tensors = {
        "empty": torch.zeros(0, 3),
        "sliced to nothing": whole[4:],
        "nothing beyond the end": whole[4:, 3:],
        "part": whole[1:3],
        "strided": whole[::2, 1::2],
        "turned": whole.T,
        "expanded": torch.ones(3, 1).expand(3, 5),
        "one row": whole[:, 2:3].T,
        "parameter": torch.nn.Parameter(whole.T),
        "parameter with state": parameter,
        "tensor with state": noted,
        'odd "name"\n\x01 é': torch.tensor(1.5),
    }
    assert_equal(at(OrderedDict(tensors)), tensors)


@st.composite
def views(draw):
    """Views of a few storages, by any steps."""
    wholes = [torch.arange(60.0).reshape(3, 4, 5), torch.arange(12).to(torch.bfloat16)]
    tensors = {}
    for i in range(draw(st.integers(1, 4))):
        tensor = draw(st.sampled_from(wholes))
        for _ in range(draw(st.integers(0, 4))):
            axis = draw(st.integers(0, max(0, tensor.ndim - 1)))
            step = draw(st.sampled_from(["turn", "cut", "pick", "widen"]))
            if step == "widen":
                tensor = tensor.unsqueeze(0).expand(
                    draw(st.integers(1, 3)), *tensor.shape
                )
            elif tensor.ndim and step == "turn":
                tensor = tensor.transpose(0, axis)
            elif tensor.ndim and step == "cut":
                first, last = sorted(draw(st.tuples(*[st.integers(0, 5)] * 2)))
                every = draw(st.integers(1, 3))
                index = [slice(None)] * tensor.ndim
                index[axis] = slice(first, last, every)
                tensor = tensor[tuple(index)]
            elif tensor.ndim and tensor.shape[axis]:
                tensor = tensor.select(
                    axis, draw(st.integers(0, tensor.shape[axis] - 1))
                )
        tensors[f"t{i}"] = tensor
    return tensors


@settings(deadline=None, max_examples=60)
@given(views(), st.data())
def test_any_views(tmp_path_factory, tensors, data):
    path = tmp_path_factory.mktemp("views") / "m.pt"
    torch.save(tensors, path)
    read = open_tensors(path)
    assert_equal(read, torch.load(path, weights_only=True))
    for name, tensor in tensors.items():
        part = slice(*sorted(data.draw(st.tuples(*[st.integers(0, 30)] * 2))))
        flat = tensor.reshape(-1)[part].to(torch.float64).numpy()
        assert read.entries(name, part).astype(float).tolist() == flat.tolist()


def test_a_module_and_what_is_tied_in_it(at):
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 4)
    )
    model[2].weight = model[0].weight
    read = at(model.state_dict())  # has versions as attributes
    assert_equal(read, model.state_dict())
    assert read.ties == {"2.weight": "0.weight"}
    apart = {"a": torch.ones(4), "b": torch.ones(4)}
    halves = {"first": apart["a"][:2], "second": apart["a"][2:]}
    assert at(apart | halves).ties == {}


PLAIN = {
    "epoch": 3,
    "long": 2**70,
    "negative": -(2**40),
    "loss": 0.5,
    "done": True,
    "none": None,
    "name": "é",
    "bytes": b"\xff\x00",
    "bytearray": bytearray(b"x"),
    "set": {1, 2},
    "complex": 1j,
    "list": [1, [2, (3,)]],
    "dtype": torch.bfloat16,
    "device": torch.device("cuda:0"),
    "size": torch.Size([2, 3]),
    "count": Counter("aab"),
}


@pytest.mark.parametrize("keys", [(), ("state_dict",), ("a", "model")])
def test_the_one_dictionary_of_tensors(at, keys):
    tensors = {"w": torch.ones(2), "b": torch.zeros(3)}
    content = tensors | {f"plain {key}": value for key, value in PLAIN.items()}
    for key in reversed(keys):
        content = PLAIN | {key: content, "again": content, "empty": {}}
    assert_equal(at(content), tensors)


def test_the_state_of_an_optimiser_is_no_model(at):
    model = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(2)).sum().backward()
    optimiser.step()
    content = {"model": model.state_dict(), "optimizer": optimiser.state_dict()}
    assert_equal(at(content), model.state_dict())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model": {"w": torch.ones(1)}, "e": {"m": {"w": torch.ones(1)}}},
            r"2 dictionaries of tensors: 'model' \(1\), 'e.m' \(1\); expected one\. "
            r"Save .*torch.save\(torch.load\(.*weights_only=True\)\['e'\]\['m'\], 'py",
        ),
        ({"w": torch.ones(1), "in": {"v": torch.ones(1)}}, "2 dictionaries of"),
        ({"epoch": 3}, "no dictionary of tensors"),
        (torch.ones(3), "no dictionary of tensors"),
        ([torch.ones(3)], "no dictionary of tensors"),
        ({"w": torch.ones(1), 0: torch.ones(1)}, "a tensor under a key of type int"),
        (
            {"w": torch.ones(1), "v": [torch.ones(1)]},
            "tensors in a list; expected each",
        ),
        ({(1, 2): torch.ones(1)}, "a key of type tuple"),
        ({"w": torch.ones(1, dtype=torch.complex64).conj()}, "a conjugated or neg"),
        ({"w": torch.ones(1, dtype=torch.complex128)}, "'torch.ComplexDoubleStorage'"),
        ({"w": torch.ones(2).to_sparse()}, "_utils._rebuild_sparse_tensor"),
        ({"w": torch.ones(2, device="meta")}, "_rebuild_meta_tensor_no_storage"),
        ({"w": torch.ones(1), "x": np.float64(1)}, "numpy.*scalar'; expected tensors"),
        ({"w": torch.ones(1), "x": OSError}, "exceptions.OSError'; expected tensors"),
    ],
)
def test_what_else_is_refused(at, content, message):
    with pytest.raises(FormatError, match=message):
        at(content)


def test_dictionaries_too_deep(at):
    content = {"w": torch.ones(1)}
    for _ in range(8):
        content = {"in": content}
    with pytest.raises(FormatError, match="inside each other; expected at most 8"):
        at(content)
    assert list(at(content["in"])) == ["w"]


# ---- other files ----


def forged(place, layout, value, member=0):
    """A file in whose list of members one has another number."""
    changed, at = bytearray(GOOD), -1
    for _ in range(member + 1):
        at = changed.index(b"PK\1\2", at + 1)
    struct.pack_into(layout, changed, at + place, value)
    return bytes(changed)


def twice():
    """An archive with two members of one name."""
    buffer = io.BytesIO(packed(b"N."))
    with zipfile.ZipFile(buffer, "a") as archive:
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("m/data/0", b"")
    return buffer.getvalue()


def deflated():
    """An archive with a compressed member."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", b"N.")
        archive.writestr("m/data/0", bytes(99), zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


DEFLATED = deflated()
WEIGHTS = {"w": torch.arange(3.0)}
GOOD = saved(WEIGHTS)
LAST = GOOD.count(b"PK\1\2") - 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no zip archive"),
        (b"version https://git-lfs", "no zip archive"),
        (saved(WEIGHTS, _use_new_zipfile_serialization=False), "a bare pickle; .*1.6"),
        (saved(WEIGHTS, pickle_protocol=4), "a pickle of protocol 4; expected"),
        (GOOD.replace(b"little", b"biggie"), "a damaged pickle"),
        (packed(b"N.", byteorder=b"big"), "not little-endian; expected little"),
        (DEFLATED, r"1 compressed \('m/data/0'\); expected members stored as they are"),
        (packed(b"N."), "no dictionary of tensors"),
        (packed(bytes(LARGEST_PICKLE + 1)), "a pickle of 16777217 bytes; expected"),
        (packed(b"N.").replace(b"m/data.pkl", b"m-data.pkl"), "found 0 members"),
        (
            packed(b"N.", **{"/data.pkl": b""}).replace(b"m//", b"nn/"),
            "found 2 members",
        ),
        (forged(46, "7s", b"brchive"), "another header of b'brchive/data.pkl'"),
        (packed(b"N.").replace(b"pkl", b"\xff\xfe!"), "expected UTF-8"),
        (GOOD.replace(b"data/0", b"data.p"), "no numbers '0'"),
        (twice(), "two members 'm/data/0'"),
        (GOOD[:-1], "no end of a zip archive"),
        (GOOD + b"\0", "no end of a zip archive"),
        (GOOD[:10], "no end of a zip archive"),
        (GOOD[:-2] + b"\1\0", "a list of .* expected one archive without a comment"),
        (GOOD[-42:], "no zip archive"),
        (GOOD[:4] + GOOD[-42:], "room for the end of a 64-bit archive"),
        (GOOD.replace(b"PK\6\6", b"PK\6\5"), "no end of a 64-bit archive"),
        (GOOD.replace(b"\7\0\0\0\0\0\0\0\7", b"\7\0\0\0\0\0\0\0\6"), "7 members"),
        (forged(0, "<L", 0), "no member at byte 0 of the list"),
        (forged(8, "<H", 1), "encrypted; expected members without a password"),
        (forged(10, "<H", 12), "another header of b'archive/data.pkl'"),
        (
            forged(20, "<L", 9),
            "b'archive/data.pkl' of 162 bytes in 9; expected as many",
        ),
        (
            forged(42, "<L", 70, 1),
            "b'archive/data.pkl' up to byte 226; expected its end",
        ),
        (
            forged(20, "<Q", 10**9 * (1 + 2**32), LAST),
            "up to byte 10000.*; expected its end, and no hole, before",
        ),
        (forged(28, "<H", 999, LAST), "beyond the end of the list"),
        (forged(42, "<L", 5), "expected 7, the first at the start"),
        (
            forged(42, "<L", 2**32 - 1, LAST),
            "up to byte 834; expected its end, and no hole",
        ),
        (
            forged(42, "<L", 0, 1),
            "b'archive/data.pkl' up to byte 226; expected its end",
        ),
    ],
)
def test_archives_that_are_refused(at, data, message):
    with pytest.raises(FormatError, match=message):
        at(data)


def test_a_list_of_members_larger_than_any(at):
    sparse = bytearray(GOOD[:4]) + bytes((1 << 25) + 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, (1 << 25) + 1, 4, 0)
    with pytest.raises(FormatError, match="a list of 33554433 bytes; expected at most"):
        at(bytes(sparse + end))


def test_a_program_of_torchscript(at):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch, that scripts are deprecated
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(2)), buffer)
    with pytest.raises(FormatError, match=r"a TorchScript program.*torch\.jit\.load"):
        at(buffer.getvalue())


def test_files_without_checksums(at):
    try:
        torch.serialization.set_crc32_options(False)
        data = saved(WEIGHTS)
    finally:
        torch.serialization.set_crc32_options(True)
    assert_equal(at(data), WEIGHTS)


def test_archives_that_python_wrote(at):
    # Nothing is aligned there, and there is no 64-bit end.
    with zipfile.ZipFile(io.BytesIO(GOOD)) as archive:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as other:
            for name in archive.namelist():
                other.writestr(name.replace("archive", "arch"), archive.read(name))
    assert_equal(at(buffer.getvalue()), WEIGHTS)


# ---- folders ----


@pytest.fixture
def sharded(tmp_path):
    """Two shards with an index, and what they hold."""
    files = {f"pytorch_model-0000{i}-of-00002.bin": f"w{i}" for i in (1, 2)}
    tensors = {name: torch.full((2, 2), 3.0) for name in files.values()}
    for file, name in files.items():
        torch.save({name: tensors[name]}, tmp_path / file)
    index = {"weight_map": {name: file for file, name in files.items()}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return tmp_path, tensors


def test_shards(sharded):
    folder, tensors = sharded
    (folder / "training_args.bin").touch()
    assert_equal(open_tensors(folder), tensors)
    assert_equal(open_tensors(folder / "pytorch_model.bin.index.json"), tensors)
    torch.save({"w3": torch.ones(1)}, folder / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(FormatError, match="no tensor 'w2'; expected it, as pytorch_m"):
        open_tensors(folder)


def test_safetensors_come_first(sharded):
    folder, _ = sharded
    write_folder(folder, {"v": np.ones(2)})
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert list(open_tensors(folder)) == ["v"]


@pytest.mark.parametrize("name", ["a.bin", "b.pt", "c.pth", "d.ckpt"])
def test_a_single_file_by_any_name(tmp_path, name):
    (tmp_path / name).write_bytes(GOOD)
    (tmp_path / "optimizer.pt").touch()
    assert_equal(open_tensors(tmp_path), WEIGHTS)
    assert_equal(open_tensors(tmp_path / name), WEIGHTS)
    (tmp_path / "x.pt").touch()
    with pytest.raises(FormatError, match=r"2 files \*.bin \*.pt.*the file that you"):
        open_tensors(tmp_path)


# ---- attacks ----


class Asks:
    """Asks for a call when it is unpickled."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


class Reference(tuple):
    """Stands for data outside of the pickle."""


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return tuple(value) if isinstance(value, Reference) else None


def program(value):
    buffer = io.BytesIO()
    Pickler(buffer, 2).dump(value)
    return buffer.getvalue()


REBUILD = torch._utils._rebuild_tensor_v2
HELD = Reference(("storage", torch.FloatStorage, "0", "cpu", 3))


def tensor(held=HELD, offset=0, size=(3,), stride=(1,), *more):
    return Asks(REBUILD, (held, offset, size, stride, False, {}, *more))


def test_what_the_attacks_are_made_of(at):
    data = np.arange(3, dtype="<f4").tobytes()
    read = at(packed(program({"w": tensor()}), [data]))
    assert_equal(read, WEIGHTS)


def held(*change):
    return Reference((*HELD[: len(HELD) - len(change)], *change))


@pytest.mark.parametrize(
    ("lie", "message"),
    [
        (tensor(offset=1), "a tensor up to byte 16; expected one inside of its 12"),
        (tensor(offset=-1), "a tensor without shape; expected sizes, strides"),
        (tensor(offset=2**62), "a tensor up to byte"),
        (tensor(offset=2**64), "a tensor without shape"),
        (tensor(offset=0.0), "a tensor without shape"),
        (tensor(size=(4,)), "a tensor up to byte 16"),
        (tensor(size=(2, 2), stride=(2, 1)), "a tensor up to byte 16"),
        (tensor(stride=(-1,)), "a tensor without shape"),
        (tensor(stride=(2**62,)), "a tensor up to byte"),
        (tensor(stride=(1, 1)), "a tensor without shape"),
        (tensor(size=[3]), "a tensor without shape"),
        (tensor(size=("3",)), "a tensor without shape"),
        (tensor(size=(2**40, 2**40), stride=(0, 0)), "a tensor of too large a shape"),
        (tensor(size=(1,) * 65, stride=(0,) * 65), "a tensor of too large a shape"),
        (
            tensor(held(4)),
            "12 bytes of numbers '0'; expected as many as .* of float32 takes",
        ),
        (tensor(held(-3)), "12 bytes of numbers '0'; expected as many"),
        (tensor(held(10**5000)), "12 bytes of numbers '0'; expected as many"),
        (tensor(held("cpu", "3")), "a reference to what is no storage"),
        (tensor(held("1", "cpu", 3)), "no numbers '1'; expected a member"),
        (tensor(held("../../etc/passwd", "cpu", 3)), "no numbers '../../etc"),
        (tensor(held(REBUILD, "0", "cpu", 3)), "a reference to what is no storage"),
        (tensor(Reference(("module", 1))), "a reference to what is no storage"),
        (tensor(Reference(())), "a reference to what is no storage"),
        (tensor(None), "a tensor without a storage"),
        (Asks(REBUILD, ()), "a tensor without a storage"),
        (Asks(torch._utils._rebuild_tensor_v3, (HELD,) * 7), "a storage or type"),
        (Asks(torch._utils._rebuild_parameter, (3, True, {})), "a parameter that is"),
        (
            Asks(torch._tensor._rebuild_from_type_v2, (REBUILD, REBUILD, (), {})),
            "a tensor of a class of its own",
        ),
        (Asks(OrderedDict, ([("w", 1)],)), "an OrderedDict with arguments"),
    ],
)
def test_lies_about_storages(at, lie, message):
    with pytest.raises(FormatError, match=message):
        at(packed(program({"w": lie}), [bytes(12)]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"cposix\nsystem\nX\4\0\0\0true\x85R.", "'posix.system'; expected tensors"),
        (b"cbuiltins\neval\nX\1\0\0\0" + b"1\x85R.", "'builtins.eval'"),
        (b"ctorch\nload\n)R.", "'torch.load'; expected tensors and plain values. Not"),
        (b"c" + b"a" * 999 + b"\n\xff\n.", "'a{80}'; expected"),
        (b"(S'true'\nios\nsystem\n.", "the instruction STRING"),
        (b"(ios\nsystem\n.", "the instruction INST"),
        (b"(cposix\nsystem\no.", "'posix.system'"),
        (b"(ctorch\nTensor\no.", "the instruction OBJ"),
        (b"ctorch\nTensor\n)\x81.", "the instruction NEWOBJ"),
        (b"\x82\1.", "the instruction EXT1"),
        (b"\x83\1\0.", "the instruction EXT2"),
        (b"\x84\1\0\0\0.", "the instruction EXT4"),
        (b"X\1\0\0\0aX\1\0\0\0b\x93.", "the instruction STACK_GLOBAL"),
        (b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", "the instruction BYTEARRAY8"),
        (b"P0\n.", "the instruction PERSID"),
        (b"\xfe.", r"the instruction b'\\xfe'"),
        (b"ccollections\nOrderedDict\n}b.", "a change of a function; expected a dict"),
        (b"ccollections\nOrderedDict\nK\1R.", "a call of what is no function"),
        (b"})R.", "a call of what is no function"),
        (b"ctorch\nfloat32\n)R.", "a call of what is no function"),
        (b"K\1Q.", "a reference to what is no storage"),
        (b"K\1K\2a.", "a change of a int; expected a list"),
        (b"](K\1K\2u.", "a change of a list; expected a dict"),
        (b"}(K\1u.", "a key without a value"),
        (b"}]K\1s.", "a key of type list"),
        (b"})K\1s.", "a key of type tuple"),
        (b".", "a program that takes what it never made"),
        (b"e.", "a program without a mark"),
        (b"K\1(\x85.", "a program that takes what it never made"),
        (b"h\0.", "a program that recalls what it never noted"),
        (b"X\xff\xff\xff\xff.", "more: it is cut off"),
        (b"\x8b\xff\xff\xff\xff.", "more: it is cut off"),
        (b"X\1\0\0\0\xff.", "expected UTF-8"),
        (b"cposix", "a pickle that ends within a name"),
        (b"N", "more: it is cut off"),
        (b"Nr\xff\xff\xff\xff.", "no dictionary of tensors"),  # noted, far away
    ],
)
def test_programs_that_are_refused(at, text, message):
    with pytest.raises(FormatError, match=message) as caught:
        at(packed(b"\x80\2" + text))
    assert len(str(caught.value)) < 600 and "\n" not in str(caught.value)


def test_nothing_is_run(at, tmp_path):
    mark = tmp_path / "was here"
    evil = {"w": torch.ones(1), "x": Asks(exec, (f"open({str(mark)!r}, 'w')",))}
    with pytest.raises(FormatError, match=r"__builtin__\.exec'; .* Nothing was run\."):
        at(evil)
    assert not mark.exists()


def test_values_that_hold_themselves_or_grow_without_end(at):
    loop = {}
    loop["loop"] = loop
    laughs = ()
    for _ in range(100):
        laughs = (laughs, laughs)
    content = {"in": {"w": torch.ones(1)}, "loop": loop, "laughs": laughs}
    assert list(at(content)) == ["w"]


# ---- damage ----


SAMPLE = {
    "a": torch.arange(6.0).reshape(2, 3).T,
    "b": torch.nn.Parameter(torch.ones(2, dtype=torch.bfloat16)),
    "c": torch.tensor(7),
}
VALUES = {name: tensor.tolist() for name, tensor in SAMPLE.items()}


def test_truncations_are_found(tmp_path):
    data = saved(SAMPLE)
    for length in {*range(0, len(data), 7), *range(len(data) - 110, len(data))}:
        assert outcome(tmp_path / "damaged.pt", data[:length]) is None, length
    assert outcome(tmp_path / "damaged.pt", data) == VALUES


def test_flipped_bytes_are_found_or_change_nothing_but_a_number(tmp_path):
    data = saved(SAMPLE)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        held = [archive.read(f"archive/data/{key}") for key in range(len(SAMPLE))]
    spans = [range(data.index(h), data.index(h) + len(h)) for h in held]
    for place in (p for p in range(0, len(data), 2) if data[p] != ord("Z")):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        read = outcome(tmp_path / "damaged.pt", bytes(damaged))
        if any(place in span for span in spans):
            assert read != VALUES and read.keys() == VALUES.keys(), place
        else:
            assert read is None or read == VALUES, place


@settings(deadline=None, max_examples=250)
@given(st.data())
def test_programs_with_other_bytes(tmp_path_factory, data):
    buffer = io.BytesIO(saved(SAMPLE))
    with zipfile.ZipFile(buffer) as archive:
        text = bytearray(archive.read("archive/data.pkl"))
        numbers = [archive.read(f"archive/data/{key}") for key in range(len(SAMPLE))]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        text[place : place + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=4)
        )
    outcome(tmp_path_factory.getbasetemp() / "damaged.pt", packed(bytes(text), numbers))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60))
def test_any_program(tmp_path_factory, text):
    assert (
        outcome(tmp_path_factory.getbasetemp() / "damaged.pt", packed(b"\x80\2" + text))
        is None
    )
