"""Arrays of every element type and awkward shape, and what reading a file gives."""

import numpy as np

from mda_jax.converters.formats import FormatError, open_tensors
from mda_jax.converters.formats.dtypes import NUMPY


def every_type(seed=0):
    """One array per element type, one entry name each, plus odd names and shapes."""
    rng = np.random.default_rng(seed)
    tensors = {
        f"layer.{code}": rng.integers(0, 2, (3, 2)).astype(dtype)
        for code, dtype in NUMPY.items()
    }
    tensors['odd "name"\n\x01 é'] = np.array(rng.normal(), np.float32)
    tensors["empty"] = np.zeros((0, 3), np.float32)
    return tensors


def assert_same(actual, expected):
    assert set(actual) == set(expected)
    for name, array in expected.items():
        got = np.asarray(actual[name])
        assert got.shape == array.shape and got.dtype == array.dtype, name
        assert got.tobytes() == array.tobytes(), name


def outcome(path, data):
    """The tensors as lists; or None for a FormatError. Anything else escapes."""
    path.write_bytes(data)
    try:
        return {n: a.tolist() for n, a in open_tensors(path).items()}
    except FormatError as e:
        assert str(path) in str(e) and "expected" in str(e) and "\n" not in str(e)
        return None
