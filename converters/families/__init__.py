"""The model families that can be converted: one file for each."""

from mda_jax.converters.dialects import Family
from mda_jax.converters.families import (
    bert,
    clip,
    clip_resnet,
    convnext,
    dinov2,
    distilbert,
    gemma2,
    gpt2,
    llama,
    mixtral,
    phi3,
    qwen3_moe,
    resnet,
    roberta,
    siglip,
    t5,
    vit,
)


# Some have all the names of another and more, and come after it: Gemma 2 and Qwen 3
# after Llama, DINOv2 after ViT.
FAMILIES: tuple[Family, ...] = (
    bert.FAMILY,
    distilbert.FAMILY,
    gpt2.FAMILY,
    roberta.FAMILY,
    t5.FAMILY,
    llama.FAMILY,
    gemma2.FAMILY,
    phi3.FAMILY,
    mixtral.FAMILY,
    qwen3_moe.FAMILY,
    clip.FAMILY,
    clip_resnet.FAMILY,
    siglip.FAMILY,
    vit.FAMILY,
    dinov2.FAMILY,
    resnet.FAMILY,
    convnext.FAMILY,
)
