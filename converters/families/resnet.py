"""ResNet: files of transformers, and those of torchvision, whose names timm shares."""

from dataclasses import replace

from mda_jax.converters.dialects import (
    LINEN,
    TORCH,
    Dialect,
    Family,
    Part,
    batch_norm,
    conv,
    linear,
    linen,
    with_collections,
)


def _pair(outer: str, inner: str) -> tuple[Part, Part]:
    """A convolution and its normalisation as transformers has them."""
    return (
        conv(f"{outer}.convolution", f"{inner}/conv"),
        batch_norm(f"{outer}.normalization", f"{inner}/norm"),
    )


def _hub(path: str) -> Dialect:
    layer = "encoder.stages.{s}.layers.{l}"
    return Dialect(
        "hub",
        TORCH,
        prefixes=("resnet.", ""),
        backbone=(
            *_pair("embedder.embedder", "stem"),
            *_pair(f"{layer}.layer.{path}", "stages/{s}/{l}/path/{k}"),
            *_pair(f"{layer}.shortcut", "stages/{s}/{l}/shortcut"),
        ),
        heads=(linear("classifier.1", "classifier"),),
    )


HUB = _hub("{k}")
_LAYER = "layer{s:1|2|3|4}.{l}", "stages/{s:0|1|2|3}/{l}"
_PATH = f"{_LAYER[1]}/path/{{k:0|1|2}}"
TORCHVISION = Dialect(
    "torchvision",
    TORCH,
    backbone=(
        conv("conv1", "stem/conv"),
        batch_norm("bn1", "stem/norm"),
        conv(f"{_LAYER[0]}.conv{{k:1|2|3}}", f"{_PATH}/conv"),
        batch_norm(f"{_LAYER[0]}.bn{{k:1|2|3}}", f"{_PATH}/norm"),
        conv(f"{_LAYER[0]}.downsample.0", f"{_LAYER[1]}/shortcut/conv"),
        batch_norm(f"{_LAYER[0]}.downsample.1", f"{_LAYER[1]}/shortcut/norm"),
        linear("fc", "classifier"),
    ),
)
_LINEN = with_collections(LINEN)
# The class of transformers 4 for basic blocks calls their convolutions so.
_BASIC = replace(linen(_hub("layer_{k}"), _LINEN), name="hf_flax_basic")

FAMILY = Family("resnet", ("resnet",), (HUB, TORCHVISION, linen(HUB, _LINEN), _BASIC))
