"""Models of other libraries: names, shapes and outputs, made by `golden/make_*.py`.

Weights and images are not stored: they follow from names and shapes.
"""

import json
from pathlib import Path

import numpy as np
from fill import fill


GOLDEN = Path(__file__).parent / "golden"


def stored(source):
    """The models of `golden/<source>.json` by name."""
    return json.loads((GOLDEN / f"{source}.json").read_text())


def store(source, models):
    """Write `golden/<source>.json`, a model on each line."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(model, separators=(',', ':'))}"
        for name, model in models.items()
    )
    (GOLDEN / f"{source}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def table(tensors):
    """What is stored of named arrays: the dtype and the shape of each."""
    return {name: [str(x.dtype), list(x.shape)] for name, x in tensors.items()}


def weights(model):
    """The arrays of a stored model by their names in its file."""
    return {
        name: fill(name, tuple(shape), np.dtype(dtype))
        for name, (dtype, shape) in model["tensors"].items()
    }


def image(*shape):
    """The images of a batch of this shape, channels first."""
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def inputs(model):
    """The arguments of a stored model's forward: token ids, and images in NCHW."""
    return {
        name: image(*given["shape"]) if isinstance(given, dict) else np.asarray(given)
        for name, given in model["inputs"].items()
    }
