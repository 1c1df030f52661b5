"""Vision transformers: other sizes of images, names, pools, and configs of timm."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from parity import assert_every_bit_comes_back, assert_says, in_memory, said
from stored import inputs, stored, weights
from torch_models import CASES, build as build_torch, slow_but
from vision import NAMES, checkpoint, images, says, state, torch_says

from mda_jax.converters import ConversionError, build, in_dialect, to_torch
from mda_jax.converters.convert import leaves
from mda_jax.converters.models import vit


@pytest.mark.parametrize("height, width", [(24, 24), (8, 12)])
@pytest.mark.parametrize(
    "case", slow_but("dinov2", of=["dinov2", "dinov2_registers_classifier"])
)
def test_places_are_resampled_for_other_sizes(case, height, width):
    batch = images(case, height, width)
    assert_says(says(checkpoint(case), batch), torch_says(case, batch), NAMES)


def test_vit_resamples_as_when_torch_is_asked_to():
    batch = images("vit", 20, 20)
    with torch.no_grad():
        wanted = build_torch("vit")(
            torch.tensor(batch.transpose(0, 3, 1, 2)), interpolate_pos_encoding=True
        )
    assert_says(says(checkpoint("vit"), batch), wanted, NAMES)


@pytest.mark.parametrize("case", ["vit", "vit_pooled", "dinov2", "dinov2_swiglu"])
def test_names_in_the_memory_of_transformers5(case):
    tensors = {n: x.numpy() for n, x in build_torch(case).state_dict().items()}
    opened = in_memory(tensors, CASES[case])
    assert opened.dialect == "transformers5"
    ours, same = assert_every_bit_comes_back(opened), leaves(checkpoint(case))
    assert set(ours) == set(same)
    assert all(np.array_equal(ours[name], same[name]) for name in same)


def test_old_names_of_torchvision():
    model = stored("torchvision")["vit"]
    new = weights(model)
    old = {
        n.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): x
        for n, x in new.items()
    }
    ours = assert_every_bit_comes_back(in_memory(old, model["config"]))
    same = leaves(in_memory(new, model["config"]))
    assert all(np.array_equal(ours[name], same[name]) for name in same)


@pytest.mark.parametrize(
    "before", slow_but("params/img/", of=["img/", "params/", "params/img/"])
)
def test_a_tower_of_images_in_an_npz_file(before):
    model = stored("big_vision")["scanned"]
    plain = weights(model)
    tensors = {f"{before}{name}": x for name, x in plain.items()}
    ours = leaves(in_memory(tensors, {}))
    same = leaves(in_memory(plain, model["config"]))
    assert ours.sizes == {"heads": 4}
    assert all(np.array_equal(ours[name], same[name]) for name in same)


def timm_config(architecture, **others):
    """A file as timm writes it."""
    return {
        "architecture": architecture,
        "num_classes": 3,
        "num_features": 192,
        "pretrained_cfg": {"input_size": [3, 224, 224], "pool_size": None},
    } | others


def timm_tensors(*, registers=0, scale=False, norm="norm", tokens=1, places=17):
    """Tensors of a ViT of timm as wide as the tiny ones, with one layer."""
    rng, width = np.random.default_rng(0), 192
    shapes = {
        "pos_embed": (1, places, width),
        "patch_embed.proj.weight": (width, 3, 4, 4),
        "patch_embed.proj.bias": (width,),
        "blocks.0.attn.qkv.weight": (3 * width, width),
        "blocks.0.attn.proj.weight": (width, width),
        "blocks.0.attn.proj.bias": (width,),
        "blocks.0.mlp.fc1.weight": (2 * width, width),
        "blocks.0.mlp.fc1.bias": (2 * width,),
        "blocks.0.mlp.fc2.weight": (width, 2 * width),
        "blocks.0.mlp.fc2.bias": (width,),
        "head.weight": (3, width),
        "head.bias": (3,),
    }
    for name in ("blocks.0.norm1", "blocks.0.norm2", norm):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    if tokens:
        shapes["cls_token"] = (1, 1, width)
    if registers:
        shapes["reg_token"] = (1, registers, width)
    if scale:
        shapes |= {f"blocks.0.ls{i}.gamma": (width,) for i in (1, 2)}
    return {
        name: (0.1 * rng.standard_normal(shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def layer_norm(x, weight, bias):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight + bias


def timm_says(w, images, heads, *, average):
    """The forward of timm in float64, for one layer."""
    w = {name: x.astype(float) for name, x in w.items()}
    n, width = len(images), w["pos_embed"].shape[2]
    patches = images.reshape(n, 4, 4, 4, 4, 3).transpose(0, 1, 3, 5, 2, 4)
    x = patches.reshape(n, 16, -1) @ w["patch_embed.proj.weight"].reshape(width, -1).T
    x = x + w["patch_embed.proj.bias"]
    first = [w[t] for t in ("cls_token", "reg_token") if t in w]
    prefix = sum(t.shape[1] for t in first)
    tokens = [np.broadcast_to(t, (n, *t.shape[1:])) for t in first]
    own = w["pos_embed"].shape[1] == 16
    x = np.concatenate([*tokens, x + w["pos_embed"] if own else x], 1)
    x = x if own else x + w["pos_embed"]

    def normed(x, name):
        return layer_norm(x, w[f"{name}.weight"], w[f"{name}.bias"])

    y = normed(x, "blocks.0.norm1") @ w["blocks.0.attn.qkv.weight"].T
    q, k, v = y.reshape(n, -1, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    scores = np.exp(q @ k.swapaxes(2, 3) / np.sqrt(width // heads))
    y = (scores / scores.sum(-1, keepdims=True)) @ v
    y = y.transpose(0, 2, 1, 3).reshape(x.shape) @ w["blocks.0.attn.proj.weight"].T
    x = x + (y + w["blocks.0.attn.proj.bias"]) * w.get("blocks.0.ls1.gamma", 1)
    y = normed(x, "blocks.0.norm2") @ w["blocks.0.mlp.fc1.weight"].T
    y = torch.nn.functional.gelu(torch.tensor(y + w["blocks.0.mlp.fc1.bias"])).numpy()
    y = y @ w["blocks.0.mlp.fc2.weight"].T + w["blocks.0.mlp.fc2.bias"]
    x = x + y * w.get("blocks.0.ls2.gamma", 1)
    x = normed(x, "norm") if "norm.weight" in w else x
    x = x[:, prefix:].mean(1) if average else x[:, 0]
    x = normed(x, "fc_norm") if "fc_norm.weight" in w else x
    return x @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize(
    "name, tensors, average, others",
    [
        ("vit_tiny_patch16_224", {}, False, {"global_pool": "token"}),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("vit_tiny_patch16_224", {}, True, {"global_pool": "avg"}),
                ("vit_tiny_patch16_224.augreg", {"norm": "fc_norm"}, True, {}),
                ("vit_tiny_patch16_gap_224", {"tokens": 0, "places": 16}, True, {}),
                ("deit3_tiny_patch16_224", {"scale": True, "places": 16}, False, {}),
            ]
        ),
        (
            "vit_tiny_patch14_reg4_dinov2",
            {"scale": True, "places": 16, "registers": 4},
            False,
            {"model_args": {"img_size": 16}},
        ),
        (
            "vit_tiny_patch16_reg1_gap_256",
            {"norm": "fc_norm", "tokens": 0, "places": 16, "registers": 1},
            True,
            {},
        ),
    ],
)
def test_models_of_timm(name, tensors, average, others):
    config = timm_config(name.split(".")[0], **others)
    given = timm_tensors(**tensors)
    opened = in_memory(given, config)
    assert opened.dialect == "timm"
    assert_every_bit_comes_back(opened)
    batch = np.random.default_rng(1).standard_normal((2, 16, 16, 3))
    found = said(build(opened), jnp.asarray(batch, jnp.float32))
    wanted = timm_says(given, batch, 3, average=average)
    assert_says({"logits": found["logits"]}, {"logits": wanted}, NAMES)


@pytest.mark.parametrize(
    "config, said",
    [
        (timm_config("vit_base_patch16_siglip_gap_224"), "siglip"),
        (timm_config("vit_giant_patch14_dinov2"), "giant_patch14_dinov2"),
        (timm_config("vit_giant_patch14_reg4_dinov2"), "giant_patch14_reg4_dinov2"),
        (timm_config("vit_tiny_patch16_224", model_args={"qk_norm": True}), "qk_norm"),
        (timm_config("vit_tiny_patch16_224", global_pool="map"), "global_pool"),
        (timm_config("vit_tiny_patch16_224", pos_embed="rope"), "pos_embed"),
        ({}, "num_attention_heads"),
        ({"num_attention_heads": 3, "rope": True}, "rope"),
    ],
)
def test_refuses_to_guess(config, said):
    shapes = {
        name: x.shape for name, x in leaves(in_memory(timm_tensors(), {})).items()
    }
    with pytest.raises(ConversionError, match=said):
        vit.build(config, shapes, nnx.Rngs(0))


def test_fields_by_hand_for_a_file_without_a_config():
    model = stored("torchvision")["vit"]
    opened = in_memory(weights(model), {"num_attention_heads": 4})
    [batch] = inputs(model).values()
    found = says(opened, batch.transpose(0, 2, 3, 1))
    assert_says(found, model["outputs"], NAMES)


def test_from_one_library_to_another():
    """The weights of timm in the names of transformers compute the same there."""
    model = stored("timm")["vit"]
    opened = in_memory(weights(model), model["config"])
    hub = to_torch(opened, dialect="hub")
    torch_model = build_torch("vit")
    for module in torch_model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-6
    there = in_dialect(in_memory(dict(hub.tensors), model["config"]), "transformers5")
    names = {n: torch.tensor(np.array(x)) for n, x in there.tensors.items()}
    torch_model.load_state_dict(names, strict=True)
    with torch.no_grad():
        logits = torch_model(torch.tensor(*inputs(model).values())).logits
    assert_says({"logits": logits.numpy()}, model["outputs"], NAMES)
    assert set(state("vit")) == set(hub.tensors)
