"""ViT, DINOv2, ResNet, ConvNeXt: bits, forwards, other libraries, what is refused."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from parity import (
    assert_every_bit_comes_back,
    assert_says,
    in_memory,
    random_bits,
    said,
)
from stored import inputs, stored, weights
from torch_models import CASES, slow_but
from vision import (
    NAMES,
    cases,
    checkpoint,
    counters,
    floats,
    images,
    says,
    state,
    torch_says,
)

from mda_jax.converters import ConversionError, build, in_dialect, to_flax, to_torch
from mda_jax.converters.convert import leaves
from mda_jax.converters.reference import model_of


FAMILIES = {
    "vit": ("vit",),
    "dinov2": ("dinov2", "dinov2_with_registers"),
    "resnet": ("resnet",),
    "convnext": ("convnext", "convnextv2"),
}
VISION = [(f, case) for f, types in FAMILIES.items() for case in cases(*types)]
SOME = ["dinov2_registers", "resnet_bottleneck", "convnextv2"]
# Other tests compute the same, of weights from Flax or timm or with other images.
ELSEWHERE = {
    "convnext",
    "convnext_base",
    "convnextv2",
    "convnextv2_base",
    "dinov2",
    "dinov2_classifier",
    "dinov2_registers_classifier",
    "resnet_basic",
    "resnet_bottleneck",
    "vit",
}
ALIKE = {"resnet_basic", "convnextv2", "mean"}  # others have the same names
OTHERS = [
    pytest.param(source, name, marks=pytest.mark.slow if name in ALIKE else [])
    for source in ("timm", "torchvision", "big_vision", "hf_flax")
    for name in stored(source)
    if source == "big_vision" or name.split("_")[0] in (*FAMILIES, "convnextv2")
    if (source, name[:6]) != ("torchvision", "resnet")  # too wide; timm has the names
]


@pytest.mark.parametrize("family, case", VISION)
def test_every_bit_comes_back(family, case):
    counted = counters(state(case))
    opened = in_memory(
        random_bits(floats(state(case)), "bfloat16") | counted, CASES[case]
    )
    assert (opened.family, opened.dialect) == (family, "hub")
    assert set(assert_every_bit_comes_back(opened).left) == set(counted)


@pytest.mark.parametrize("layout", ["nnx", "scanned", "head_split"])
@pytest.mark.parametrize("case", SOME)
def test_every_bit_comes_back_from_a_tree(case, layout):
    tensors = random_bits(floats(state(case)), "float32")
    opened = in_memory(tensors, CASES[case])
    tree = to_flax(opened, layout)
    back = to_torch(tree, opened, layout=layout).tensors
    assert {n: x.tobytes() for n, x in tensors.items()} == {
        n: back[n].tobytes() for n in back
    }


@pytest.mark.parametrize(
    "case",
    slow_but(
        "vit",
        "dinov2_swiglu",
        "resnet_downsampling",
        "convnext_backbone",
        of=sorted({c for _, c in VISION} - ELSEWHERE),
    ),
)
def test_computes_what_torch_does(case):
    batch, names = images(case), dict(NAMES)
    if case == "resnet_backbone":
        names["hidden"] = ["stage2"]
    assert_says(says(checkpoint(case), batch), torch_says(case, batch), names)


@pytest.mark.parametrize("source, name", OTHERS)
def test_files_of_other_libraries(source, name):
    model = stored(source)[name]
    tensors = weights(model)
    random = random_bits(floats(tensors), "bfloat16") | counters(tensors)
    assert_every_bit_comes_back(in_memory(random, model["config"]))

    opened = in_memory(tensors, model["config"])
    assert opened.dialect.startswith(
        {"timm": ("timm", "torchvision"), "big_vision": ("big", "vision_")}.get(
            source, ("hub", source)
        )
    )
    [batch] = inputs(model).values()
    found = says(opened, batch.transpose(0, 2, 3, 1))
    assert_says(found, model["outputs"], NAMES)
    if opened.family in ("resnet", "convnext") and source != "hf_flax":
        alone = build(in_memory(tensors, {}))  # the weights tell all
        assert nnx.graphdef(alone) == nnx.graphdef(build(opened))


@pytest.mark.parametrize("name", ["vit", "dinov2_classifier", "resnet_bottleneck"])
def test_is_what_flax_transformers_has(name):
    model = stored("hf_flax")[name]
    opened = in_memory(weights(model), model["config"])
    tree = in_dialect(opened, "hf_flax")
    digests = {
        path: [list(x.shape), hashlib.sha256(x.tobytes()).hexdigest()[:16]]
        for path, x in tree.tensors.items()
    }
    assert digests == model["flax"]
    assert_every_bit_comes_back(in_memory(dict(tree.tensors), model["config"]))


def test_resnets_of_torchvision():
    """They are wide: the shapes are looked at, not the weights."""
    for name in ("resnet_basic", "resnet_bottleneck"):
        model = stored("torchvision")[name]
        tensors = {
            name: np.broadcast_to(np.zeros((), dtype), shape)
            for name, (dtype, shape) in model["tensors"].items()
        }
        opened = in_memory(tensors, model["config"])
        assert opened.dialect == "torchvision"
        assert set(leaves(opened).left) == set(counters(tensors))


@pytest.mark.parametrize("case", SOME)
def test_runs_with_half_the_bits(case):
    model, batch = build(checkpoint(case)), jnp.asarray(images(case))
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), model)
    whole = said(model, batch)
    for name, got in said(half, batch).items():
        assert got.dtype == jnp.bfloat16
        scale = jnp.abs(whole[name]).max()  # some ten roundings to eight bits
        assert jnp.abs(got.astype(float) - whole[name]).max() < 0.05 * scale


@pytest.mark.parametrize("case", SOME)
def test_refuses_what_does_not_fit(case):
    tensors, config = state(case), CASES[case]
    for name in [n for n in floats(tensors) if "mask" not in n][::20]:
        without = {n: x for n, x in tensors.items() if n != name}
        with pytest.raises(ConversionError):
            leaves(in_memory(without, config))
        longer = np.concatenate([tensors[name], tensors[name]])
        with pytest.raises(ConversionError, match=r"shape|missing"):
            leaves(in_memory(tensors | {name: longer}, config))
    with pytest.raises(ConversionError, match=r"no rule for .*odd"):
        in_memory(tensors | {"odd.weight": np.zeros(3)}, config)
    odd = {"model_type": config["model_type"], "position_of_the_moon": 3}
    with pytest.raises(ConversionError, match="position_of_the_moon"):
        model_of(checkpoint(case).family).example(odd, jax.random.key(0))


COMMON = {
    "_name_or_path": "x",
    "architectures": ["X"],
    "dtype": "float32",
    "id2label": {"0": "tench"},
    "label2id": {"tench": 0},
    "problem_type": "single_label_classification",
    "torch_dtype": "float32",
    "transformers_version": "4.31.0",
}
TRANSFORMER = {
    "attention_probs_dropout_prob": 0.0,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "hidden_size": 768,
    "image_size": 224,
    "initializer_range": 0.02,
    "num_attention_heads": 12,
    "num_channels": 3,
    "num_hidden_layers": 12,
    "qkv_bias": True,
}
BACKBONE = {
    "out_features": ["stage4"],
    "out_indices": [4],
    "stage_names": ["stem", "stage1", "stage2", "stage3", "stage4"],
}
DINO = {
    "apply_layernorm": True,
    "drop_path_rate": 0.0,
    "layer_norm_eps": 1e-06,
    "layerscale_value": 1.0,
    "mlp_ratio": 4,
    "patch_size": 14,
    "reshape_hidden_states": True,
    "use_swiglu_ffn": False,
}
CONV = {
    "depths": [3, 3, 9, 3],
    "drop_path_rate": 0.0,
    "hidden_act": "gelu",
    "hidden_sizes": [96, 192, 384, 768],
    "image_size": 224,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "num_channels": 3,
    "num_stages": 4,
    "patch_size": 4,
}
REAL = [
    {"model_type": "vit", "encoder_stride": 16, "intermediate_size": 3072}
    | {"layer_norm_eps": 1e-12, "patch_size": 16, "pooler_act": "tanh"}
    | {"pooler_output_size": 768}
    | TRANSFORMER,
    {"model_type": "dinov2"} | TRANSFORMER | DINO | BACKBONE,
    {"model_type": "dinov2_with_registers", "num_register_tokens": 4}
    | TRANSFORMER
    | DINO
    | BACKBONE,
    {"model_type": "resnet", "depths": [3, 4, 6, 3], "embedding_size": 64}
    | {"downsample_in_bottleneck": False, "downsample_in_first_stage": False}
    | {"hidden_act": "relu", "hidden_sizes": [256, 512, 1024, 2048]}
    | {"layer_type": "bottleneck", "num_channels": 3}
    | BACKBONE,
    {"model_type": "convnext", "layer_scale_init_value": 1e-06} | CONV | BACKBONE,
    {"model_type": "convnextv2"} | CONV | BACKBONE,
]


@pytest.mark.parametrize("config", REAL, ids=lambda config: config["model_type"])
def test_reads_the_configs_of_the_hub(config):
    [family] = [f for f, types in FAMILIES.items() if config["model_type"] in types]
    module = model_of(family)
    [batch] = module.example(COMMON | config, jax.random.key(0))
    assert batch.shape == (2, 224, 224, 3)
    assert module.sizes(COMMON | config).get("heads", 12) == 12
