"""What tests of models of images share: their checkpoints, and what torch says."""

import tempfile
from functools import cache

import jax.numpy as jnp
import numpy as np
import torch
from parity import in_memory, said
from safetensors.numpy import load_file
from stored import image
from torch_models import CASES, build as build_torch, saved

from mda_jax.converters import build


NAMES = {
    "hidden": ["last_hidden_state"],
    "pooled": ["pooler_output"],
    "logits": ["logits"],
    "stage1": ["stage1"],
    "stage2": ["stage2"],
}


def cases(*types):
    """The models of these types."""
    return [name for name, config in CASES.items() if config["model_type"] in types]


@cache
def state(case):
    """The tensors of a model as its file has them."""
    with tempfile.TemporaryDirectory() as folder:
        return load_file(saved(case, folder) / "model.safetensors")


def checkpoint(case):
    return in_memory(state(case), CASES[case])


def images(case, height=None, width=None):
    """A batch of images that fits a model, as JAX has it."""
    config = CASES[case]
    size = config.get("image_size", 32)
    default = size if isinstance(size, list) else (size, size)
    shape = height or default[0], width or default[1]
    batch = image(2, config.get("num_channels", 3), *shape)
    return batch.transpose(0, 2, 3, 1)


def says(opened, batch):
    """What our model of a checkpoint says."""
    return said(build(opened), jnp.asarray(batch))


def torch_says(case, batch):
    """What the model of torch says, in the layouts of JAX, with names of stages."""
    with torch.no_grad():
        found = dict(build_torch(case)(torch.tensor(batch.transpose(0, 3, 1, 2))))
    maps = found.pop("feature_maps", ())
    found |= dict(zip(CASES[case].get("out_features", ()), maps, strict=True))
    for name, x in found.items():
        if x.ndim == 4:
            found[name] = x.permute(0, 2, 3, 1).squeeze((1, 2))
    return found


def floats(tensors):
    """The shapes of those that are not counters."""
    return {n: x.shape for n, x in tensors.items() if x.dtype != np.int64}


def counters(tensors):
    """Those that are."""
    return {n: x for n, x in tensors.items() if x.dtype == np.int64}
