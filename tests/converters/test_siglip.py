"""SigLIP: files of transformers and of big_vision, and what the model computes."""

from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from fill import fill
from parity import (
    assert_every_bit_comes_back,
    assert_says,
    in_memory,
    random_bits,
    said,
)
from stored import image
from torch_models import CASES, build, fill_model

from mda_jax.converters import ConversionError, checkpoint, convert
from mda_jax.converters.families.siglip import HUB, TEXT, VISION
from mda_jax.converters.models import siglip
from mda_jax.converters.translate import flat


DIALECTS = {
    "siglip": HUB,
    "siglip_vision": VISION,
    "siglip_text": TEXT,
    "headless": VISION,
    "classifier": HUB,
    "wide": HUB,
}
OUTPUTS = {
    "hidden": ["last_hidden_state"],
    "pooled": [],
    "features": ["pooler_output"],
    "image_features": ["image_embeds"],
    "text_features": ["text_embeds"],
    "logits_per_image": ["logits_per_image"],
    "logits_per_text": ["logits_per_text"],
    "logits": ["logits"],
}
TEXTS = np.asarray([[5, 17, 2, 1, 1, 1], [60, 42, 8, 60, 3, 2]])
MASK = np.asarray([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1]])


@cache
def torch_model(case):
    """A model of transformers; `wide` has towers of two widths and another GELU."""
    fields = CASES["siglip"]
    text, vision = fields["text_config"], fields["vision_config"]
    if case == "headless":
        config = transformers.SiglipVisionConfig(**vision, vision_use_head=False)
        return fill_model(transformers.SiglipVisionModel(config))
    if case == "classifier":
        config = transformers.SiglipConfig(**fields, id2label={0: "a", 1: "b", 2: "c"})
        return fill_model(transformers.SiglipForImageClassification(config))
    if case == "wide":
        text = text | {"projection_size": 40, "hidden_act": "gelu"}
        vision = vision | {"hidden_size": 40, "num_attention_heads": 2}
        config = fields | {"text_config": text, "vision_config": vision}
        return fill_model(transformers.SiglipModel(transformers.SiglipConfig(**config)))
    return build(case)


def config_of(case):
    model = torch_model(case)
    return model.config.to_dict() | {"architectures": [type(model).__name__]}


def state_of(case):
    return {name: x.numpy() for name, x in torch_model(case).state_dict().items()}


@pytest.mark.parametrize(
    ("case", "dtype"), [*((case, "bfloat16") for case in DIALECTS), ("wide", "float32")]
)
def test_every_bit_comes_back(case, dtype):
    sizes = {name: x.shape for name, x in state_of(case).items()}
    if case == "wide":
        sizes |= {"text_model.embeddings.position_ids": (1, 20)}
    opened = in_memory(random_bits(sizes, dtype), config_of(case))
    assert (opened.family, opened.dialect) == ("siglip", DIALECTS[case].name)
    ours = assert_every_bit_comes_back(opened)
    assert len(ours.left) == (case == "wide")


@pytest.mark.parametrize("case", DIALECTS)
def test_computes_what_torch_does(case):
    model = convert.build(in_memory(state_of(case), config_of(case)))
    given, arrays = {}, []
    if hasattr(model, "vision"):
        pixels = image(2, 3, 16, 16)
        given["pixel_values"] = torch.from_numpy(pixels)
        arrays.append(jnp.asarray(pixels.transpose(0, 2, 3, 1)))
    if hasattr(model, "text"):
        given["input_ids"], given["attention_mask"] = map(torch.tensor, (TEXTS, MASK))
        arrays += [jnp.asarray(TEXTS), jnp.asarray(MASK)]
    with torch.no_grad():
        assert_says(said(model, *arrays), torch_model(case)(**given), OUTPUTS)


TIMM = {  # of OpenCLIP's names, in the order of these replacements
    "vision_model.embeddings.patch_embedding": "visual.trunk.patch_embed.proj",
    "vision_model.embeddings.position_embedding.weight": "visual.trunk.pos_embed",
    "vision_model.head.attention.out_proj": "visual.trunk.attn_pool.proj",
    "vision_model.head.layernorm": "visual.trunk.attn_pool.norm",
    "vision_model.head.probe": "visual.trunk.attn_pool.latent",
    "vision_model.head.": "visual.trunk.attn_pool.",
    "vision_model.post_layernorm": "visual.trunk.norm",
    "vision_model.encoder.layers": "visual.trunk.blocks",
    "self_attn.out_proj": "attn.out_proj",
    "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
    "text_model.embeddings.": "text.",
    "text_model.final_layer_norm": "text.ln_final",
    "text_model.head": "text.text_projection",
    "text_model.encoder.layers": "text.transformer.resblocks",
}
ENDS = {
    "visual": {"layer_norm": "norm", "attn.out_proj": "attn.proj"},
    "text": {"layer_norm": "ln_", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"},
}


def as_open_clip(state):
    """The tensors of a SigLIP of transformers as OpenCLIP and timm have them."""
    found = {}
    for name, x in state.items():
        if "self_attn.k" in name or "self_attn.v" in name:
            continue
        if "self_attn.q" in name:
            parts = [state[name.replace("q_proj", f"{a}_proj")] for a in "qkv"]
            x = np.concatenate(parts)
        for old, new in TIMM.items():
            name = name.replace(old, new)
        for old, new in ENDS.get(name.split(".")[0], {}).items():
            name = name.replace(old, new)
        kind = name.split(".")[-1]
        if "self_attn.q" in name:
            end = f".qkv.{kind}" if name.startswith("visual") else f".in_proj_{kind}"
            name = f"{name.split('.self_attn')[0]}.attn{end}"
        if "attn_pool.attention" in name:
            before, kind = name.split("attention.in_proj_")
            query = len(x) // 3
            found |= {f"{before}q.{kind}": x[:query], f"{before}kv.{kind}": x[query:]}
        else:
            extra = name == "visual.trunk.pos_embed"
            found[name] = x[None] if extra else x[0] if name[:5] == "logit" else x
    return found


def test_is_what_open_clip_has():
    """As it has the ViT-B-16-SigLIP; both become the same leaves."""
    state, config = state_of("siglip"), config_of("siglip")
    theirs = as_open_clip(state)
    opened = in_memory(theirs, config)
    assert (opened.family, opened.dialect) == ("siglip", "open_clip")
    assert theirs["logit_scale"].shape == ()
    hub = convert.in_dialect(opened, "hub").tensors
    assert {n: hub[n].tobytes() for n in hub} == {
        n: x.tobytes() for n, x in state.items()
    }
    assert all(hub[name].shape == x.shape for name, x in state.items())
    assert_every_bit_comes_back(opened)


class Mlp(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.gelu(nn.Dense(48)(x))
        return nn.Dense(x.shape[-1])(y)


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(4)(y, y)
        return x + Mlp(name="MlpBlock_0")(nn.LayerNorm()(x)), None


class Encoder(nn.Module):
    scanned: bool

    @nn.compact
    def __call__(self, x):
        if self.scanned:
            axes, split = {"params": 0}, {"params": True}
            block = nn.scan(Block, variable_axes=axes, split_rngs=split, length=2)
            x, _ = block(name="encoderblock")(x, None)
        else:
            for i in range(2):
                x, _ = Block(name=f"encoderblock_{i}")(x, None)
        return nn.LayerNorm(name="encoder_norm")(x)


class MapHead(nn.Module):
    @nn.compact
    def __call__(self, x):
        probe = self.param("probe", nn.initializers.zeros, (1, 1, x.shape[-1]))
        probe = jnp.tile(probe, (len(x), 1, 1))
        x = nn.MultiHeadDotProductAttention(4)(probe, x)
        return (x + Mlp(name="MlpBlock_0")(nn.LayerNorm()(x)))[:, 0]


def with_places(module, x):
    places = module.param("pos_embedding", nn.initializers.zeros, (1, *x.shape[1:]))
    return x + places


class Vision(nn.Module):
    scanned: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(32, (4, 4), (4, 4), padding="VALID", name="embedding")(x)
        x = with_places(self, x.reshape(len(x), -1, 32))
        return MapHead(name="MAPHead_0")(Encoder(self.scanned, name="Transformer")(x))


class Text(nn.Module):
    scanned: bool

    @nn.compact
    def __call__(self, tokens):
        x = Encoder(self.scanned)(with_places(self, nn.Embed(61, 32)(tokens)))
        return nn.Dense(32, name="head")(x[:, -1])


class BigVision(nn.Module):
    """The names and the order of big_vision's `two_towers.py`; modules are Linen's."""

    scanned: bool

    @nn.compact
    def __call__(self, images, tokens):
        read = Text(self.scanned, name="txt")(tokens)
        seen = Vision(self.scanned, name="img")(images)
        seen, read = (
            x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (seen, read)
        )
        t, b = (self.param(name, nn.initializers.zeros, (1,)) for name in "tb")
        return {"logits_per_image": seen @ read.T * jnp.exp(t)[None] + b[None]}


@pytest.mark.parametrize(
    ("scanned", "dialect"),
    [
        pytest.param(False, "big_vision", marks=pytest.mark.slow),
        (True, "big_vision_scanned"),
    ],
)
def test_is_what_big_vision_has_and_computes(scanned, dialect):
    fields = CASES["siglip"]
    vision = fields["vision_config"] | {"layer_norm_eps": 1e-6}
    text = fields["text_config"] | {"layer_norm_eps": 1e-6}
    text |= {"max_position_embeddings": 6}
    config = fields | {"vision_config": vision, "text_config": text}
    model = BigVision(scanned)
    arrays = (
        jnp.asarray(image(2, 3, 16, 16).transpose(0, 2, 3, 1)),
        jnp.asarray(TEXTS),
    )
    empty = jax.eval_shape(model.init, jax.random.key(0), *arrays)
    state = {f"params/{n}": fill(n, x.shape) for n, x in flat(empty["params"]).items()}
    params = {"params": checkpoint.nested({n[7:]: x for n, x in state.items()})}
    opened = in_memory(state, config)
    assert opened.dialect == dialect
    wanted = jax.jit(model.apply)(params, *arrays)
    found = said(convert.build(opened), *arrays)
    assert_says(found, wanted, {name: [name] for name in found})
    hub = convert.in_dialect(opened, "hub")
    assert set(hub.tensors) == set(state_of("siglip"))
    back = convert.to_torch(convert.to_flax(hub), hub, dialect=dialect).tensors
    assert all(np.array_equal(back[name], x) for name, x in state.items())


def test_configs_of_the_hub():
    """As the fixed sizes of SigLIP 2 have it; a field of the others is refused."""
    config = {
        "architectures": ["SiglipModel"],
        "initializer_factor": 1.0,
        "model_type": "siglip",
        "text_config": {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "model_type": "siglip_text_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "projection_size": 1152,
            "torch_dtype": "float32",
            "vocab_size": 256000,
        },
        "torch_dtype": "float32",
        "transformers_version": "4.49.0.dev0",
        "vision_config": {
            "hidden_size": 1152,
            "image_size": 384,
            "intermediate_size": 4304,
            "model_type": "siglip_vision_model",
            "num_attention_heads": 16,
            "num_hidden_layers": 27,
            "patch_size": 14,
            "torch_dtype": "float32",
        },
    }
    counts = {"vision_heads": 16, "vision_kv_heads": 16}
    assert counts.items() <= siglip.sizes(config).items()
    vision, text = siglip.read(config)
    assert (vision.layer_norm_eps, text.hidden_act) == (1e-6, "gelu_pytorch_tanh")
    config["vision_config"]["num_patches"] = 256
    with pytest.raises(ConversionError, match=r"vision_config\.num_patches"):
        siglip.read(config)


def test_wrong_tensors_are_refused():
    state, config = state_of("siglip"), config_of("siglip")
    del state["vision_model.head.probe"]
    with pytest.raises(ConversionError, match=r"vision/head/probe.*missing"):
        convert.leaves(in_memory(state, config))
