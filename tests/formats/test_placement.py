"""From files straight onto devices, of which a process of its own has eight."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from mda_jax.converters.formats import (
    Tensors,
    open_tensors,
    place,
    write_file,
    write_npz,
    write_orbax,
    write_pytorch,
)


WRITERS = {"m.safetensors": write_file, "m.bin": write_pytorch, "m.npz": write_npz}
WRITERS |= {"orbax": write_orbax}
ARRAYS = {
    "kernel": np.arange(64, dtype=np.float32).reshape(8, 8) * 1.001,
    "turned": np.arange(32, dtype=np.int16).reshape(4, 8).T,
    "half": np.arange(16).astype(ml_dtypes.bfloat16).reshape(2, 8),
    "quarter": np.arange(8).astype(ml_dtypes.float8_e4m3fn),
    "scalar": np.array(2.5, np.float32),
    "empty": np.zeros((0, 4), np.float32),
}
SPECS = {
    "kernel": P("x", "y"),
    "turned": P("x"),
    "half": P(None, "y"),
    "quarter": P(("x", "y")),
    "scalar": P(),
    "empty": P(None, "y"),
}


class Spy(Tensors):
    """Notes how many entries are read of each tensor."""

    def __init__(self, path):
        super().__init__(path)
        self.read = dict.fromkeys(self, 0)

    def part(self, name, index):
        held = super().part(name, index)
        self.read[name] += held.size
        return held


def shardings(mesh):
    return {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}


def check(folder):
    """What is to hold on eight devices."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
    one_process = jax.sharding.Mesh(mesh.devices[:1], ("x", "y"))
    for name, write in WRITERS.items():
        write(folder / name, ARRAYS)
        spy = Spy(folder / name)
        dtypes = {"kernel": ml_dtypes.bfloat16}
        placed = place(spy, shardings(mesh), dtypes=dtypes)
        assert list(placed) == list(spy)
        for key, array in placed.items():
            expected = ARRAYS[key].astype(dtypes.get(key, ARRAYS[key].dtype))
            assert array.sharding == NamedSharding(mesh, SPECS[key])
            assert np.asarray(array).tobytes() == expected.tobytes(), (name, key)
        assert spy.read == {key: array.size for key, array in ARRAYS.items()}
        spy.read["kernel"] = 0
        place(spy, {"kernel": NamedSharding(one_process, P("x"))}, names=["kernel"])
        assert spy.read["kernel"] == 64
    parts = NamedSharding(mesh, P("x"))
    shapes = {s.data.shape for s in placed["turned"].addressable_shards}
    assert placed["turned"].sharding == parts and shapes == {(2, 4)}


def test_each_part_is_read_once(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    code = f"import {Path(__file__).stem} as t, pathlib; t.check(pathlib.Path.cwd())"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=tmp_path,
        env=os.environ | flags | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert not done.returncode and not done.stderr, done.stderr


def here():
    return jax.sharding.SingleDeviceSharding(jax.devices()[0])


def test_arrays_do_not_change_with_the_file(tmp_path):
    path = tmp_path / "m.bin"
    write_pytorch(path, {"w": np.ones((64, 64), np.float32)})
    placed = place(open_tensors(path), {"w": here()})["w"]
    with path.open("r+b") as file:  # aligned as devices want it
        file.write(bytes(path.stat().st_size))
    assert float(placed.sum()) == 64 * 64


def test_any_mapping_and_only_some(tmp_path):
    placed = place(ARRAYS, dict.fromkeys(ARRAYS, here()), names=["half", "turned"])
    assert list(placed) == ["half", "turned"]
    assert placed["turned"].tolist() == ARRAYS["turned"].tolist()


@pytest.mark.parametrize(
    ("tensors", "names", "message"),
    [
        ({"a": np.ones(1, "f4")}, ["b"], "1 names have no tensor, 'b' first"),
        ({"a": np.ones(1), "c": np.ones(1)}, None, "1 names have no sharding, 'c'"),
        ({"a": np.ones(1)}, None, "'a' would be float64, of which JAX keeps 32 bits"),
        ({"a": np.array(2**40)}, None, "'a' would be int64"),
    ],
)
def test_what_is_refused(tensors, names, message):
    with pytest.raises(ValueError, match=message):
        place(tensors, {"a": here(), "b": here()}, names=names)
