"""DINOv2, with and without registers."""

from dataclasses import replace

from mda_jax.converters.dialects import (
    TORCH,
    Dialect,
    Family,
    Part,
    linear,
    linen,
    norm,
    param,
)
from mda_jax.converters.families import vit


_GATED = "layers/{i}/gated_mlp"


def _hub(name: str, attention: tuple[Part, ...], gated: tuple[Part, ...]) -> Dialect:
    layer = "encoder.layer.{i}"
    return Dialect(
        name,
        TORCH,
        prefixes=("dinov2.", "dinov2_with_registers.", ""),
        backbone=(
            *vit.EMBEDDINGS,
            param("embeddings.register_tokens", "register_tokens"),
            *attention,
            norm(f"{layer}.norm{{n:1|2}}", "layers/{i}/{n:attention|mlp}_norm"),
            param(
                f"{layer}.layer_scale{{n:1|2}}.lambda1",
                "layers/{i}/{n:attention|mlp}_scale",
            ),
            linear(f"{layer}.mlp.fc{{m:1|2}}", "layers/{i}/mlp/{m:up|down}"),
            *gated,
            norm("layernorm", "norm"),
        ),
        heads=vit.HUB.heads,
    )


HUB = _hub(
    "hub",
    vit.ATTENTION,
    (
        linear("encoder.layer.{i}.mlp.weights_in", f"{_GATED}/gate", f"{_GATED}/up"),
        linear("encoder.layer.{i}.mlp.weights_out", f"{_GATED}/down"),
    ),
)
TRANSFORMERS5 = _hub(
    "transformers5",
    vit.attention5("encoder.layer"),
    (linear("encoder.layer.{i}.mlp.{m:gate|up|down}_proj", f"{_GATED}/{{m}}"),),
)
TIMM = replace(
    vit.TIMM,
    backbone=(
        *vit.TIMM.backbone,
        param("reg_token", "register_tokens"),
        param("blocks.{i}.ls{n:1|2}.gamma", "layers/{i}/{n:attention|mlp}_scale"),
    ),
)

FAMILY = Family(
    "dinov2",
    ("dinov2", "dinov2_with_registers"),
    (HUB, TRANSFORMERS5, TIMM, linen(HUB)),
)
