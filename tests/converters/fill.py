"""Weights that follow from the names of the tensors, so that none is stored."""

import math
import re
import zlib

import numpy as np


SCALES = {"gamma", "lambda1", "layer_scale_parameter", "logit_scale", "scale", "weight"}


def fill(name, shape, dtype=np.float32):
    """An array that depends on `name` alone and keeps activations of order one.

    Matrices and filters are normal with a variance of about one over the number of
    inputs; scales of norms spread around one; variances are positive.
    """
    seed, last = zlib.crc32(name.encode()), re.split("[./]", name)[-1]
    if np.issubdtype(dtype, np.integer):
        return (seed % 1000 + np.arange(math.prod(shape), dtype=dtype)).reshape(shape)
    normal = np.random.default_rng(seed).standard_normal(shape)
    if last == "running_var":
        values = 0.5 + normal**2
    elif len(shape) > 1:
        values = normal / math.sqrt(_inputs(last, shape))
    else:
        values = (last in SCALES) + 0.2 * normal
    return np.asarray(values).astype(dtype)


def _inputs(last, shape):
    """How many inputs an output has: a kernel is Flax's, any other tensor PyTorch's."""
    if last == "kernel":
        return math.prod(shape[:-1])
    return math.prod(shape[1:]) if len(shape) == 4 else shape[-1]
