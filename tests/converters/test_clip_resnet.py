"""CLIP with a ResNet for images: files of OpenCLIP, and what the model computes."""

import jax.numpy as jnp
import numpy as np
import pytest
from parity import (
    assert_every_bit_comes_back,
    assert_says,
    in_memory,
    random_bits,
    said,
)
from stored import inputs, stored, weights

from mda_jax.converters import ConversionError, convert
from mda_jax.converters.models import clip, clip_resnet


@pytest.fixture(scope="module")
def fixture():
    return stored("open_clip")["resnet"]


def test_every_bit_comes_back(fixture):
    sizes = {name: shape for name, (_, shape) in fixture["tensors"].items()}
    opened = in_memory(
        random_bits(sizes, "float32"), {"model_cfg": fixture["arguments"]}
    )
    assert (opened.family, opened.dialect) == ("clip_resnet", "open_clip")
    ours = assert_every_bit_comes_back(opened)
    assert all(name.endswith("num_batches_tracked") for name in ours.left)


def test_computes_what_open_clip_does(fixture):
    config = {"model_cfg": fixture["arguments"]}
    model = convert.build(in_memory(weights(fixture), config))
    pixels, tokens = inputs(fixture).values()
    images = jnp.asarray(pixels.transpose(0, 2, 3, 1))
    found = said(model, images, jnp.asarray(tokens))
    wanted = {name: np.asarray(x) for name, x in fixture["outputs"].items()}
    for name in ("image_features", "text_features"):  # stored as they are projected
        wanted[name] /= np.linalg.norm(wanted[name], axis=1, keepdims=True)
    assert_says(found, wanted, {name: [name] for name in found})
    with pytest.raises(ValueError, match="Resize"):
        model(images[:, 1:], jnp.asarray(tokens))


def test_layouts_with_an_axis_of_heads_come_back(fixture):
    """The attention that pools has as many heads as its width is 64."""
    state = weights(fixture)
    opened = in_memory(state, {"model_cfg": fixture["arguments"]})
    tree = convert.to_flax(opened, "head_split")
    assert tree["vision"]["attention"]["query"]["kernel"].shape == (256, 4, 64)
    back = convert.to_torch(tree, opened, layout="head_split").tensors
    back = convert.to_torch(tree, opened, layout="head_split").tensors
    assert all(np.array_equal(back[name], state[name]) for name in back)


def test_configs_are_told_apart(fixture):
    config = {"model_cfg": fixture["arguments"]}
    with pytest.raises(ConversionError, match=r"vision_cfg\.layers"):
        clip.read(config)
    with pytest.raises(ConversionError, match="embed_dim"):
        clip_resnet.read({})
