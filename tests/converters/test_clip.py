"""CLIP: files of transformers, OpenCLIP and OpenAI, and what the model computes."""

import json
from functools import cache
from hashlib import sha256

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import transformers
from parity import (
    assert_every_bit_comes_back,
    assert_says,
    in_memory,
    random_bits,
    said,
)
from stored import image, inputs, stored, weights
from torch_models import CASES, build, fill_model, slow_but

from mda_jax import merge, methods
from mda_jax.converters import ConversionError, checkpoint, convert
from mda_jax.converters.families.clip import CUSTOM_TEXT, HUB, OPEN_CLIP, TEXT, VISION
from mda_jax.converters.models import clip, open_clip
from mda_jax.converters.translate import flat


DIALECTS = {
    "clip": HUB,
    "clip_vision_projection": HUB,
    "clip_text_projection": HUB,
    "clip_vision": VISION,
    "clip_text": TEXT,
    "older": HUB,
    "classifier": HUB,
}
OTHERS = {"vit": OPEN_CLIP, "custom_text": CUSTOM_TEXT}
OUTPUTS = {
    "hidden": ["last_hidden_state"],
    "pooled": ["pooler_output"],
    "features": ["image_embeds", "text_embeds"],
    "image_features": ["image_embeds"],
    "text_features": ["text_embeds"],
    "logits_per_image": ["logits_per_image"],
    "logits_per_text": ["logits_per_text"],
    "logits": ["logits"],
}
HEAD = "visual_projection.weight"
CLIP = {"model_type": "clip"}
OPEN = {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}
# Three texts: with padding after the end, ended twice, with the end at the end.
TEXTS = [[59, 5, 17, 60, 1, 1], [59, 60, 42, 8, 60, 3], [59, 4, 30, 2, 11, 60]]
MASK = [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1]]


@cache
def torch_model(case):
    """A model of transformers; the end token 2 of `older` means the highest id."""
    if case == "older":
        text = CASES["clip"]["text_config"] | {"eos_token_id": 2, "hidden_act": "relu"}
        vision = CASES["clip"]["vision_config"] | {"num_channels": 1}
        fields = CASES["clip"] | {"text_config": text, "vision_config": vision}
        return fill_model(transformers.CLIPModel(transformers.CLIPConfig(**fields)))
    if case == "classifier":
        fields = CASES["clip"] | {"id2label": {0: "a", 1: "b", 2: "c"}}
        config = transformers.CLIPConfig(**fields)
        return fill_model(transformers.CLIPForImageClassification(config))
    return build(case)


def config_of(case):
    model = torch_model(case)
    return model.config.to_dict() | {"architectures": [type(model).__name__]}


@pytest.mark.parametrize(
    ("case", "dtype"), [*((case, "bfloat16") for case in DIALECTS), ("clip", "float32")]
)
def test_every_bit_comes_back(case, dtype):
    sizes = {n: x.shape for n, x in torch_model(case).state_dict().items()}
    if case == "older":
        sizes |= {
            f"{t}_model.embeddings.position_ids": (1, 17) for t in ("text", "vision")
        }
    state = random_bits(sizes, dtype)
    opened = in_memory(state, config_of(case))
    assert (opened.family, opened.dialect) == ("clip", DIALECTS[case].name)
    ours = assert_every_bit_comes_back(opened)
    assert len(ours.left) == 2 * (case == "older")


@pytest.mark.parametrize("case", OTHERS)
def test_every_bit_of_open_clip_comes_back(case):
    """Half as wide numbers too, as OpenAI's; its files tell three sizes besides."""
    model = stored("open_clip")[case]
    sizes = {name: shape for name, (_, shape) in model["tensors"].items()}
    buffers = ["input_resolution", "context_length", "vocab_size"]
    state = random_bits(sizes | dict.fromkeys(buffers, ()), "bfloat16")
    opened = in_memory(state, {"model_cfg": model["arguments"]})
    assert (opened.family, opened.dialect) == ("clip", OTHERS[case].name)
    ours = assert_every_bit_comes_back(opened)
    assert sorted(ours.left) == sorted(buffers)


@pytest.mark.parametrize("case", slow_but("clip", "clip_gelu", of=DIALECTS))
def test_computes_what_torch_does(case):
    reference, config = torch_model(case), config_of(case)
    state = {name: x.numpy() for name, x in reference.state_dict().items()}
    model = convert.build(in_memory(state, config))
    given, arrays = {}, []
    if hasattr(model, "vision"):
        pixels = image(2, 1 if case == "older" else 3, 16, 16)
        given["pixel_values"] = torch.from_numpy(pixels)
        arrays.append(jnp.asarray(pixels.transpose(0, 2, 3, 1)))
    if hasattr(model, "text"):
        given["input_ids"], given["attention_mask"] = map(torch.tensor, (TEXTS, MASK))
        arrays += [jnp.asarray(TEXTS), jnp.asarray(MASK)]
    with torch.no_grad():
        assert_says(said(model, *arrays), reference(**given), OUTPUTS)


@pytest.mark.parametrize("case", slow_but("vit", of=OTHERS))
def test_computes_what_open_clip_does(case):
    fixture = stored("open_clip")[case]
    opened = in_memory(weights(fixture), {"model_cfg": fixture["arguments"]})
    pixels, tokens = inputs(fixture).values()
    images, tokens = jnp.asarray(pixels.transpose(0, 2, 3, 1)), jnp.asarray(tokens)
    found = said(convert.build(opened), images, tokens)
    wanted = {name: np.asarray(x) for name, x in fixture["outputs"].items()}
    for name in ("image_features", "text_features"):  # stored as they are projected
        wanted[name] /= np.linalg.norm(wanted[name], axis=1, keepdims=True)
    assert_says(found, wanted, {name: [name] for name in found})
    vision, text = clip.read(fixture["config"])
    highest = text.model_copy(update={"eos_token_id": 2})
    assert clip.read(open_clip.as_hub(opened.config)) == (vision, highest)


def test_a_folder_of_open_clip_opens_and_comes_back(tmp_path):
    fixture = stored("open_clip")["vit"]
    state = {n: torch.from_numpy(x) for n, x in weights(fixture).items()}
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    config = {"model_cfg": fixture["arguments"], "preprocess_cfg": {"mean": [0.5] * 3}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    opened = checkpoint.load(tmp_path / "open_clip_pytorch_model.bin")
    assert convert.build(opened).vision.patch.image_shape == (16, 16, 3)
    back = convert.to_torch(convert.to_flax(opened), opened).tensors
    assert all(np.array_equal(back[name], x.numpy()) for name, x in state.items())


def test_is_what_flax_models_of_transformers_have_and_compute():
    fixture = stored("hf_flax")["clip"]
    opened = in_memory(weights(fixture), fixture["config"])
    tree = flat(convert.to_flax(opened, "hf_flax"))
    digests = {
        name: [list(x.shape), sha256(np.ascontiguousarray(x)).hexdigest()[:16]]
        for name, x in tree.items()
    }
    assert digests == fixture["flax"]
    assert in_memory(tree, fixture["config"]).dialect == "hf_flax"
    given = inputs(fixture)
    arrays = given["pixel_values"].transpose(0, 2, 3, 1), given["input_ids"]
    found = said(convert.build(opened), *map(jnp.asarray, arrays))
    assert_says(found, fixture["outputs"], OUTPUTS)


@pytest.mark.slow
def test_half_wide_weights_compute_in_their_own_type():
    state = {n: x.numpy() for n, x in torch_model("clip").state_dict().items()}
    half = {name: x.astype(ml_dtypes.bfloat16) for name, x in state.items()}
    model = convert.build(in_memory(half, config_of("clip")))
    pixels = image(2, 3, 16, 16)
    arrays = jnp.asarray(pixels.transpose(0, 2, 3, 1)), jnp.asarray(TEXTS)
    found = said(model, *arrays)
    with torch.no_grad():
        wanted = torch_model("clip")(torch.tensor(TEXTS), torch.from_numpy(pixels))
    # Rounding to 8 bits moves features of length one by a few 2^-8.
    assert abs(found["image_features"] - wanted["image_embeds"].numpy()).max() < 0.03
    assert abs(found["text_features"] - wanted["text_embeds"].numpy()).max() < 0.03
    assert model.text.token_embedding(arrays[1]).dtype == jnp.bfloat16


def test_layouts_for_flax_come_back():
    state = random_bits(
        {n: x.shape for n, x in torch_model("clip").state_dict().items()}, "float32"
    )
    opened = in_memory(state, config_of("clip"))
    for layout in ("head_split", "scanned"):
        tree = convert.to_flax(opened, layout)
        back = convert.to_torch(tree, opened, layout=layout)
        assert all(back.tensors[n].tobytes() == x.tobytes() for n, x in state.items())


def test_merges_of_image_towers_are_those_of_open_clip_and_of_transformers():
    """Task arithmetic is entrywise: fused or transposed weights change nothing."""
    fused = "visual.transformer.resblocks.0.attn.in_proj_weight"
    names = [fused, "visual.conv1.weight", "visual.proj", "visual.ln_pre.bias"]
    drawn = weights(stored("open_clip")["vit"])
    base = {name: drawn[name] for name in names}
    rng = np.random.default_rng(1)
    experts = [
        {n: x + rng.normal(0, 0.1, x.shape).astype(x.dtype) for n, x in base.items()}
        for _ in range(2)
    ]
    method, like = methods.task_arithmetic(0.4), in_memory(base, {})
    wanted = merge(base, experts, method)
    assert not np.array_equal(wanted[fused], base[fused])
    for dialect in ("nnx", "hub"):
        first, *others = (
            dict(convert.in_dialect(in_memory(m, {}), dialect).tensors)
            for m in (base, *experts)
        )
        merged = merge(first, others, method)
        back = convert.to_torch(merged, like, layout=dialect).tensors
        assert all(np.array_equal(back[name], wanted[name]) for name in base)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("text_projection.weight"), "text/projection/kernel.*missing"),
        (lambda s: s.update(odd=s["logit_scale"]), "'odd'"),
        (
            lambda s: s.update({HEAD: s[HEAD][:8]}),
            "vision/projection/kernel",
        ),
    ],
)
def test_wrong_tensors_are_refused(change, message):
    state = {n: x.numpy() for n, x in torch_model("clip").state_dict().items()}
    change(state)
    with pytest.raises(ConversionError, match=message):
        convert.leaves(in_memory(state, config_of("clip")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CLIP | {"text_config": {"hidden_sizes": 3}}, "text_config.hidden_size'"),
        (CLIP | {"vision_config": {"hidden_act": "mish"}}, "quick_gelu"),
        (CLIP | {"vision_config": {"is_decoder": True}}, "is_decoder"),
        (CLIP | {"projection_dims": 3}, "projection_dim'"),
        ({}, "model_type"),
        ({"model_cfg": OPEN | {"init_logit_bias": -10}}, "init_logit_bias"),
        ({"model_cfg": OPEN | {"vision_cfg": {"no_ln_pre": True}}}, "no_ln_pre"),
        ({"model_cfg": OPEN | {"text_cfg": {"pool_type": "eos"}}}, "eos_id"),
    ],
)
def test_configs_of_other_models_are_refused(config, message):
    with pytest.raises(ConversionError, match=message):
        clip.read(config)


def test_wrong_inputs_are_refused():
    state = {n: x.numpy() for n, x in torch_model("clip").state_dict().items()}
    model = convert.build(in_memory(state, config_of("clip")))
    images, tokens = clip.example(config_of("clip"), jax.random.key(0))
    with pytest.raises(ValueError, match="Resize"):
        model(images[:, 1:], tokens)
    with pytest.raises(ValueError, match="Cut"):
        model.text(jnp.tile(tokens, 2))


COMMON = """
    add_cross_attention bad_words_ids chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample
    early_stopping encoder_no_repeat_ngram_size exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id id2label is_decoder
    is_encoder_decoder label2id length_penalty max_length min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences
    output_attentions output_hidden_states output_scores prefix problem_type
    pruned_heads remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id task_specific_params temperature
    tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class top_k top_p
    torch_dtype torchscript transformers_version typical_p use_bfloat16
""".split()
OF_EVERY_CONFIG = dict.fromkeys(COMMON) | {
    "add_cross_attention": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
    "is_decoder": False,
    "pruned_heads": {},
}
LARGE = {
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "vocab_size": 49408,
}


def test_configs_as_old_releases_wrote_them():
    """The text encoder of Stable Diffusion; a CLIP with each tower stated twice."""
    alone = {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "architectures": ["CLIPTextModel"],
        "torch_dtype": "float32",
        "transformers_version": "4.22.0.dev0",
    }
    vision, text = clip.read(LARGE | alone)
    assert vision is None and text.end is None and text.hidden_size == 768
    tower = {"hidden_act": "gelu", "hidden_size": 1280, "num_hidden_layers": 32}
    vision, text = clip.read(
        {
            "_commit_hash": None,
            "architectures": ["CLIPModel"],
            "initializer_factor": 1.0,
            "logit_scale_init_value": 2.6592,
            "model_type": "clip",
            "projection_dim": 1024,
            "text_config": OF_EVERY_CONFIG | LARGE,
            "text_config_dict": None,
            "torch_dtype": "float32",
            "transformers_version": None,
            "vision_config": OF_EVERY_CONFIG | {"hidden_size": 1280, "image_size": 336},
            "vision_config_dict": tower,
        }
    )
    assert (text.projection_dim, text.num_attention_heads) == (1024, 12)
    assert (vision.hidden_size, vision.image_size, vision.hidden_act) == (
        1280,
        224,
        "gelu",
    )
