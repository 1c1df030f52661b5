"""Arrays of every element type and awkward shape."""

import numpy as np

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
