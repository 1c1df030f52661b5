"""SigLIP: files of transformers, OpenCLIP, and big_vision, where it was trained."""

from mda_jax.converters.dialects import (
    LINEN,
    TORCH,
    Dialect,
    Family,
    Part,
    buffer,
    conv,
    embed,
    in_proj,
    linear,
    norm,
    param,
)
from mda_jax.converters.families import big_vision
from mda_jax.converters.families.clip import hub_layers, hub_text, open_clip_text
from mda_jax.converters.rules import Rule
from mda_jax.converters.transforms import fold


def _hub_vision(before: str) -> tuple[Part, ...]:
    head, ours = f"{before}head", "vision/head"
    return (
        conv(f"{before}embeddings.patch_embedding", "vision/patch"),
        embed(f"{before}embeddings.position_embedding", "vision/position_embedding"),
        buffer(f"{before}embeddings.position_ids"),
        *hub_layers(before, "vision"),
        norm(f"{before}post_layernorm", "vision/norm"),
        param(f"{head}.probe", f"{ours}/probe"),
        in_proj(
            f"{head}.attention",
            *(f"{ours}/attention/{a}" for a in ("query", "key", "value")),
        ),
        linear(f"{head}.attention.out_proj", f"{ours}/attention/out"),
        norm(f"{head}.layernorm", f"{ours}/norm"),
        linear(f"{head}.mlp.fc{{m:1|2}}", f"{ours}/mlp/{{m:up|down}}"),
    )


def _hub_text(before: str) -> tuple[Part, ...]:
    return *hub_text(before), linear(f"{before}head", "text/projection")


HUB = Dialect(
    "hub",
    TORCH,
    backbone=(*_hub_vision("vision_model."), *_hub_text("text_model.")),
    heads=(
        param("{a:logit_scale|logit_bias}", "{a:logit_scale|logit_bias}"),
        linear("classifier", "classifier"),
    ),
)
# The towers alone as transformers 5 writes them; its older releases cannot read these.
VISION = Dialect("hub_vision", TORCH, _hub_vision(""))
TEXT = Dialect("hub_text", TORCH, _hub_text(""))


_TIMM, _POOL = "visual.trunk.blocks.{i}", "visual.trunk.attn_pool"
_LAYER, _HEAD = "vision/layers/{i}", "vision/head"
_PLACE = "vision/position_embedding/embedding"
OPEN_CLIP = Dialect(
    "open_clip",
    TORCH,
    backbone=(
        conv("visual.trunk.patch_embed.proj", "vision/patch"),
        Rule(("visual.trunk.pos_embed",), (_PLACE,), fold(0, 1, -1)),
        linear(
            f"{_TIMM}.attn.qkv",
            *(f"{_LAYER}/attention/{a}" for a in ("query", "key", "value")),
        ),
        linear(f"{_TIMM}.attn.proj", f"{_LAYER}/attention/out"),
        norm(f"{_TIMM}.norm{{n:1|2}}", f"{_LAYER}/{{n:attention|mlp}}_norm"),
        linear(f"{_TIMM}.mlp.fc{{m:1|2}}", f"{_LAYER}/mlp/{{m:up|down}}"),
        norm("visual.trunk.norm", "vision/norm"),
        param(f"{_POOL}.latent", f"{_HEAD}/probe"),
        linear(f"{_POOL}.{{a:q|proj}}", f"{_HEAD}/attention/{{a:query|out}}"),
        linear(f"{_POOL}.kv", *(f"{_HEAD}/attention/{a}" for a in ("key", "value"))),
        norm(f"{_POOL}.norm", f"{_HEAD}/norm"),
        linear(f"{_POOL}.mlp.fc{{m:1|2}}", f"{_HEAD}/mlp/{{m:up|down}}"),
        *open_clip_text("text."),
        linear("text.text_projection", "text/projection"),
        # Scalars; elsewhere they have the shape [1].
        Rule(("logit_{a:scale|bias}",), ("logit_{a:scale|bias}",), fold(0)),
    ),
)


def _big_vision(name: str, block: str, layer: str) -> Dialect:
    """Files of big_vision, whose stacks are named so outside and inside."""
    head = "img/MAPHead_0"
    place = fold(0, 1, -1)  # the table of places has an axis for the batch
    return Dialect(
        name,
        LINEN,
        backbone=(
            conv("img/embedding", "vision/patch"),
            Rule(
                ("{t:img|txt}/pos_embedding",),
                ("{t:vision|text}/position_embedding/embedding",),
                place,
            ),
            *big_vision.layer(
                f"img/Transformer/{block}", f"vision/{layer}", "vision_heads"
            ),
            norm("img/Transformer/encoder_norm", "vision/norm"),
            param(f"{head}/probe", "vision/head/probe"),
            *big_vision.attention(
                f"{head}/MultiHeadDotProductAttention_0",
                "vision/head/attention",
                "vision_heads",
            ),
            norm(f"{head}/LayerNorm_0", "vision/head/norm"),
            linear(f"{head}/MlpBlock_0/Dense_{{m:0|1}}", "vision/head/mlp/{m:up|down}"),
            embed("txt/Embed_0", "text/token_embedding"),
            *big_vision.layer(f"txt/Encoder_0/{block}", f"text/{layer}", "text_heads"),
            norm("txt/Encoder_0/encoder_norm", "text/norm"),
            linear("txt/head", "text/projection"),
            param("{a:t|b}", "{a:logit_scale|logit_bias}"),
        ),
    )


BIG_VISION = _big_vision("big_vision", "encoderblock_{i}", "layers/{i}")
SCANNED = _big_vision("big_vision_scanned", "encoderblock", "layers/{i*}")

FAMILY = Family(
    "siglip",
    ("siglip", "siglip_vision_model", "siglip_text_model"),
    (HUB, VISION, TEXT, OPEN_CLIP, BIG_VISION, SCANNED),
)
