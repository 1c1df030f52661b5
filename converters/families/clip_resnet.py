"""CLIP with a ResNet for images: files of OpenAI and OpenCLIP."""

from mda_jax.converters.dialects import Family, batch_norm, conv, linear, param
from mda_jax.converters.families.clip import open_clip


_LAYER = "visual.layer{s:1|2|3|4}.{l}", "vision/stages/{s:0|1|2|3}/{l}"
_STEP = f"{_LAYER[1]}/path/{{k:0|1|2}}"
_VISION = (
    conv("visual.conv{k:1|2|3}", "vision/stem/{k:0|1|2}/conv"),
    batch_norm("visual.bn{k:1|2|3}", "vision/stem/{k:0|1|2}/norm"),
    conv(f"{_LAYER[0]}.conv{{k:1|2|3}}", f"{_STEP}/conv"),
    batch_norm(f"{_LAYER[0]}.bn{{k:1|2|3}}", f"{_STEP}/norm"),
    conv(f"{_LAYER[0]}.downsample.0", f"{_LAYER[1]}/shortcut/conv"),
    batch_norm(f"{_LAYER[0]}.downsample.1", f"{_LAYER[1]}/shortcut/norm"),
    param(
        "visual.attnpool.positional_embedding", "vision/position_embedding/embedding"
    ),
    linear(
        "visual.attnpool.{a:q|k|v|c}_proj",
        "vision/attention/{a:query|key|value|out}",
    ),
)
OPEN_CLIP = open_clip("open_clip", "", _VISION)
CUSTOM_TEXT = open_clip("open_clip_custom_text", "text.", _VISION)

FAMILY = Family("clip_resnet", (), (OPEN_CLIP, CUSTOM_TEXT))
