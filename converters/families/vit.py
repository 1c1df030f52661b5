"""ViT: files of transformers, timm and torchvision, and of Google's JAX code."""

from mda_jax.converters.dialects import (
    LINEN,
    TORCH,
    Dialect,
    Family,
    Part,
    conv,
    in_proj,
    linear,
    linen,
    norm,
    param,
)
from mda_jax.converters.families import big_vision


EMBEDDINGS = (
    param(
        "embeddings.{a:cls_token|mask_token|position_embeddings}",
        "{a:class_token|mask_token|position_embedding}",
    ),
    conv("embeddings.patch_embeddings.projection", "patch"),
)
ATTENTION = (
    linear(
        "encoder.layer.{i}.attention.attention.{a:query|key|value}",
        "layers/{i}/attention/{a}",
    ),
    linear("encoder.layer.{i}.attention.output.dense", "layers/{i}/attention/out"),
)


def attention5(layers: str) -> tuple[Part, ...]:
    """The attention as transformers 5 names it in memory."""
    return (
        linear(
            f"{layers}.{{i}}.attention.{{a:q|k|v|o}}_proj",
            "layers/{i}/attention/{a:query|key|value|out}",
        ),
    )


def _hub(name: str, layers: str, attention: tuple[Part, ...], mlp: Part) -> Dialect:
    return Dialect(
        name,
        TORCH,
        prefixes=("vit.", ""),
        backbone=(
            *EMBEDDINGS,
            *attention,
            mlp,
            norm(
                f"{layers}.{{i}}.layernorm_{{n:before|after}}",
                "layers/{i}/{n:attention|mlp}_norm",
            ),
            norm("layernorm", "norm"),
            linear("pooler.dense", "pooler"),
        ),
        heads=(linear("classifier", "classifier"),),
    )


_MLP = "layers/{i}/mlp/{m:up|down}"
HUB = _hub(
    "hub",
    "encoder.layer",
    ATTENTION,
    linear("encoder.layer.{i}.{m:intermediate|output}.dense", _MLP),
)
TRANSFORMERS5 = _hub(
    "transformers5",
    "layers",
    attention5("layers"),
    linear("layers.{i}.mlp.fc{m:1|2}", _MLP),
)
TIMM = Dialect(
    "timm",
    TORCH,
    backbone=(
        param("{a:cls_token|pos_embed}", "{a:class_token|position_embedding}"),
        conv("patch_embed.proj", "patch"),
        linear(
            "blocks.{i}.attn.qkv",
            *(f"layers/{{i}}/attention/{a}" for a in ("query", "key", "value")),
        ),
        linear("blocks.{i}.attn.proj", "layers/{i}/attention/out"),
        linear("blocks.{i}.mlp.fc{m:1|2}", "layers/{i}/mlp/{m:up|down}"),
        norm("blocks.{i}.norm{n:1|2}", "layers/{i}/{n:attention|mlp}_norm"),
        norm("{n:norm|fc_norm}", "{n:norm|pooled_norm}"),
        linear("head", "classifier"),
    ),
)


def _torchvision(name: str, first: str, second: str) -> Dialect:
    layer = "encoder.layers.encoder_layer_{i}"
    return Dialect(
        name,
        TORCH,
        backbone=(
            param("class_token", "class_token"),
            param("encoder.pos_embedding", "position_embedding"),
            conv("conv_proj", "patch"),
            in_proj(
                f"{layer}.self_attention",
                *(f"layers/{{i}}/attention/{a}" for a in ("query", "key", "value")),
            ),
            linear(f"{layer}.self_attention.out_proj", "layers/{i}/attention/out"),
            linear(f"{layer}.mlp.{{m:{first}|{second}}}", "layers/{i}/mlp/{m:up|down}"),
            norm(f"{layer}.ln_{{n:1|2}}", "layers/{i}/{n:attention|mlp}_norm"),
            norm("encoder.ln", "norm"),
            linear("heads.head", "classifier"),
        ),
    )


def _jax(
    name: str, position: str, layer: tuple[str, str], places: tuple[int, int, int]
) -> Dialect:
    return Dialect(
        name,
        LINEN,
        prefixes=("", "img/"),
        backbone=(
            param("cls", "class_token"),
            param(position, "position_embedding"),
            conv("embedding", "patch"),
            *big_vision.layer(*layer, "heads", places),
            norm("Transformer/encoder_norm", "norm"),
            linear("head", "classifier"),
        ),
    )


_EACH = "Transformer/encoderblock_{i}", "layers/{i}"
_ALL = "Transformer/encoderblock", "layers/{i*}"

FAMILY = Family(
    "vit",
    ("vit",),
    (
        HUB,
        TRANSFORMERS5,
        TIMM,
        _torchvision("torchvision", "0", "3"),
        _torchvision("torchvision_before_0.14", "linear_1", "linear_2"),
        linen(HUB),
        _jax("big_vision", "pos_embedding", _EACH, (0, 1, 0)),
        _jax("big_vision_scanned", "pos_embedding", _ALL, (0, 1, 0)),
        _jax(
            "vision_transformer",
            "Transformer/posembed_input/pos_embedding",
            _EACH,
            (1, 2, 3),
        ),
    ),
)
