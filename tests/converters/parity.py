"""What tests of a family ask: every bit comes back, JAX computes what torch does."""

import ml_dtypes
import numpy as np
from flax import nnx

from mda_jax.converters.checkpoint import Checkpoint, Source
from mda_jax.converters.convert import leaves
from mda_jax.converters.naming import recognise
from mda_jax.converters.reference import model_of, shapes
from mda_jax.converters.translate import Arrays, Translated


BITS = {"float32": (np.uint32, np.float32), "bfloat16": (np.uint16, ml_dtypes.bfloat16)}


def random_bits(sizes, dtype):
    """Arrays of random bits by name: infinities and NaN of every kind among them."""
    whole, kind = BITS[dtype]
    rng = np.random.default_rng(0)
    return {
        name: rng.integers(0, np.iinfo(whole).max, shape, whole).view(kind)
        for name, shape in sizes.items()
    }


def in_memory(state, config):
    """A checkpoint whose files are thought of."""
    naming = recognise(Arrays(state), config)
    return Checkpoint(Arrays(state), naming, Source(naming), config)


def assert_every_bit_comes_back(opened):
    """To our leaves, which are those of the model, and back; returns the leaves."""
    ours = leaves(opened)
    found = {name: ours[name].shape for name in ours}
    assert shapes(opened.family, opened.config, found) == found
    assert found == {name: ours.spec(name).shape for name in ours}
    sizes = model_of(opened.family).sizes(opened.config)
    rules = opened.naming.rules({**sizes, **ours.sizes})
    back = Translated(ours, [rule.flipped() for rule in rules])
    assert {*back, *ours.left} == set(opened.tensors)
    for name in back:
        there, here = opened.tensors[name], back[name]
        assert (here.dtype, here.shape) == (there.dtype, there.shape), name
        assert here.tobytes() == there.tobytes(), name
    return ours


@nnx.jit
def said(model, *inputs):
    """What a model and its heads say."""
    return model.outputs(*inputs)


def assert_says(found, wanted, names):
    """The same as torch, up to the roundings of some ten layers: about 30 ulp.

    Args:
      found: outputs of a model of ours.
      wanted: outputs of the model of torch.
      names: ours -> those that torch may have for it.
    """
    pairs = [
        (value, np.asarray(wanted[theirs]))
        for name, value in found.items()
        for theirs in names[name]
        if theirs in wanted
    ]
    assert pairs
    for got, want in pairs:
        assert got.shape == want.shape
        scale = max(1, np.abs(want).max())
        assert np.abs(got - want).max() <= 4e-6 * scale
