"""From one format to another, a model takes the memory of one of its tensors."""

import subprocess
import sys

import numpy as np
import pytest

from mda_jax.converters.formats import write_file


SIZE, COUNT = 8 << 20, 24  # bytes of a tensor, and how many there are
CODE = """
import sys
import tensorstore
from mda_jax.converters import formats

def largest():
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

write, source, target = getattr(formats, sys.argv[1]), *sys.argv[2:]
before = largest()
write(target, formats.open_tensors(source))
written = largest()
for array in formats.open_tensors(target).values():
    array.sum()
print(written - before, largest() - before)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "m.safetensors"
    numbers = np.random.default_rng(0).standard_normal(SIZE // 4, np.float32)
    write_file(path, {f"w{i}": numbers.reshape(64, -1) for i in range(COUNT)})
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("write", "target", "tensors"),
    [
        ("write_pytorch", "m.bin", 3),
        ("write_npz", "m.npz", 3),
        ("write_msgpack", "m.msgpack", 3),
        ("write_orbax", "m", 14),  # and what TensorStore keeps for itself, some 70 MB
    ],
)
def test_memory_does_not_grow_with_the_number(tmp_path, source, write, target, tensors):
    command = [sys.executable, "-c", CODE, write, source, tmp_path / target]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert max(map(int, done.stdout.split())) < tensors * SIZE, done.stdout
