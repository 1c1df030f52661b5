"""Weights that follow from the names of the tensors, so that none is stored."""

import math
import zlib

import numpy as np


SCALES = {"gamma", "lambda1", "layer_scale_parameter", "logit_scale", "scale", "weight"}


def fill(name, shape, dtype=np.float32):
    """An array that depends on `name` alone and keeps activations of order one.

    Matrices and filters are normal with variance one over the number of inputs, in
    PyTorch's layout; scales of norms spread around one; variances are positive.
    """
    seed, last = zlib.crc32(name.encode()), name.split(".")[-1]
    if np.issubdtype(dtype, np.integer):
        return (seed % 1000 + np.arange(math.prod(shape), dtype=dtype)).reshape(shape)
    normal = np.random.default_rng(seed).standard_normal(shape)
    if last == "running_var":
        values = 0.5 + normal**2
    elif len(shape) > 1:
        inputs = math.prod(shape[1:]) if len(shape) == 4 else shape[-1]
        values = normal / math.sqrt(inputs)
    else:
        values = (last in SCALES) + 0.2 * normal
    return np.asarray(values).astype(dtype)
