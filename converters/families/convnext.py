"""ConvNeXt 1 and 2: files of transformers, timm and torchvision."""

from mda_jax.converters.dialects import (
    TORCH,
    Dialect,
    Family,
    Part,
    conv,
    linear,
    norm,
    param,
)
from mda_jax.converters.rules import Rule
from mda_jax.converters.transforms import fold


_INNER = "stages/{s}/layers/{i}"


def _layer(
    outer: str, inner: str, names: tuple[str, str, str, str]
) -> tuple[Part, ...]:
    """A layer; `names` are of its convolution, its norm and its two dense layers."""
    depthwise, normalisation, up, down = names
    return (
        conv(f"{outer}.{depthwise}", f"{inner}/conv"),
        norm(f"{outer}.{normalisation}", f"{inner}/norm"),
        linear(f"{outer}.{up}", f"{inner}/mlp/up"),
        linear(f"{outer}.{down}", f"{inner}/mlp/down"),
    )


_HUB_LAYER = "encoder.stages.{s}.layers.{i}"
HUB = Dialect(
    "hub",
    TORCH,
    prefixes=("convnext.", "convnextv2.", ""),
    backbone=(
        conv("embeddings.patch_embeddings", "stem/conv"),
        norm("embeddings.layernorm", "stem/norm"),
        *_layer(_HUB_LAYER, _INNER, ("dwconv", "layernorm", "pwconv1", "pwconv2")),
        param(f"{_HUB_LAYER}.layer_scale_parameter", f"{_INNER}/scale"),
        Rule(
            (f"{_HUB_LAYER}.grn.{{n:weight|bias}}",),
            (f"{_INNER}/mlp/response_norm/{{n:scale|bias}}",),
            fold(0, 1, 1, 1, -1),
        ),
        norm("encoder.stages.{s}.downsampling_layer.0", "stages/{s}/downsample/norm"),
        conv("encoder.stages.{s}.downsampling_layer.1", "stages/{s}/downsample/conv"),
        norm("layernorm", "norm"),
        norm("hidden_states_norms.stem", "feature_norms/stem"),
        norm("hidden_states_norms.stage{s}", "feature_norms/stage{s}"),
    ),
    heads=(linear("classifier", "classifier"),),
)

_TIMM_LAYER = "stages.{s}.blocks.{i}"
TIMM = Dialect(
    "timm",
    TORCH,
    backbone=(
        conv("stem.0", "stem/conv"),
        norm("stem.1", "stem/norm"),
        *_layer(_TIMM_LAYER, _INNER, ("conv_dw", "norm", "mlp.fc1", "mlp.fc2")),
        param(f"{_TIMM_LAYER}.gamma", f"{_INNER}/scale"),
        norm(f"{_TIMM_LAYER}.mlp.grn", f"{_INNER}/mlp/response_norm"),
        norm("stages.{s}.downsample.0", "stages/{s}/downsample/norm"),
        conv("stages.{s}.downsample.1", "stages/{s}/downsample/conv"),
        norm("head.norm", "norm"),
        linear("head.fc", "classifier"),
    ),
)

_STAGE = "features.{s:1|3|5|7}.{i}", "stages/{s:0|1|2|3}/layers/{i}"
_DOWNSAMPLE = "features.{s:2|4|6}", "stages/{s:1|2|3}/downsample"
TORCHVISION = Dialect(
    "torchvision",
    TORCH,
    backbone=(
        conv("features.0.0", "stem/conv"),
        norm("features.0.1", "stem/norm"),
        *_layer(*_STAGE, ("block.0", "block.2", "block.3", "block.5")),
        Rule((f"{_STAGE[0]}.layer_scale",), (f"{_STAGE[1]}/scale",), fold(0, -1, 1, 1)),
        norm(f"{_DOWNSAMPLE[0]}.0", f"{_DOWNSAMPLE[1]}/norm"),
        conv(f"{_DOWNSAMPLE[0]}.1", f"{_DOWNSAMPLE[1]}/conv"),
        norm("classifier.0", "norm"),
        linear("classifier.2", "classifier"),
    ),
)

FAMILY = Family("convnext", ("convnext", "convnextv2"), (HUB, TIMM, TORCHVISION))
