"""CLIP of transformers, OpenCLIP and OpenAI: a tower of images and one of texts."""

from mda_jax.converters.dialects import (
    TORCH,
    Dialect,
    Family,
    Part,
    buffer,
    conv,
    embed,
    in_proj,
    linear,
    linen,
    matrix_io,
    norm,
    param,
)


def hub_layers(before: str, tower: str) -> tuple[Part, ...]:
    """The layers of a tower as transformers names them.

    Args:
      before: the names.
      tower: `vision` or `text`.
    """
    outer, inner = f"{before}encoder.layers.{{i}}", f"{tower}/layers/{{i}}"
    return (
        norm(f"{outer}.layer_norm{{n:1|2}}", f"{inner}/{{n:attention|mlp}}_norm"),
        linear(
            f"{outer}.self_attn.{{a:q|k|v|out}}_proj",
            f"{inner}/attention/{{a:query|key|value|out}}",
        ),
        linear(f"{outer}.mlp.fc{{m:1|2}}", f"{inner}/mlp/{{m:up|down}}"),
    )


def hub_text(before: str) -> tuple[Part, ...]:
    """A tower of texts as transformers names it, `before` each name."""
    return (
        embed(
            f"{before}embeddings.{{a:token|position}}_embedding",
            "text/{a:token|position}_embedding",
        ),
        buffer(f"{before}embeddings.position_ids"),
        *hub_layers(before, "text"),
        norm(f"{before}final_layer_norm", "text/norm"),
    )


def _hub_vision(before: str) -> tuple[Part, ...]:
    return (
        param(f"{before}embeddings.class_embedding", "vision/class_token"),
        conv(f"{before}embeddings.patch_embedding", "vision/patch"),
        embed(f"{before}embeddings.position_embedding", "vision/position_embedding"),
        buffer(f"{before}embeddings.position_ids"),
        norm(f"{before}pre_layrnorm", "vision/first_norm"),
        *hub_layers(before, "vision"),
        norm(f"{before}post_layernorm", "vision/norm"),
    )


HUB = Dialect(
    "hub",
    TORCH,
    backbone=(*_hub_vision("vision_model."), *hub_text("text_model.")),
    heads=(
        linear("visual_projection", "vision/projection"),
        linear("text_projection", "text/projection"),
        param("logit_scale", "logit_scale"),
        linear("classifier", "classifier"),
    ),
)
# The towers alone as transformers 5 writes them; its older releases cannot read these.
VISION = Dialect("hub_vision", TORCH, _hub_vision(""))
TEXT = Dialect("hub_text", TORCH, hub_text(""))


def _open_clip_layers(before: str, tower: str) -> tuple[Part, ...]:
    outer = f"{before}transformer.resblocks.{{i}}"
    inner = f"{tower}/layers/{{i}}"
    return (
        norm(f"{outer}.ln_{{n:1|2}}", f"{inner}/{{n:attention|mlp}}_norm"),
        in_proj(
            f"{outer}.attn",
            *(f"{inner}/attention/{a}" for a in ("query", "key", "value")),
        ),
        linear(f"{outer}.attn.out_proj", f"{inner}/attention/out"),
        linear(f"{outer}.mlp.c_{{m:fc|proj}}", f"{inner}/mlp/{{m:up|down}}"),
    )


def open_clip_text(before: str) -> tuple[Part, ...]:
    """A tower of texts as OpenAI and OpenCLIP name it, `before` each name."""
    return (
        embed(f"{before}token_embedding", "text/token_embedding"),
        param(f"{before}positional_embedding", "text/position_embedding/embedding"),
        *_open_clip_layers(before, "text"),
        norm(f"{before}ln_final", "text/norm"),
        buffer(f"{before}attn_mask"),
    )


def open_clip(name: str, text: str, vision: tuple[Part, ...]) -> Dialect:
    """A dialect of OpenAI and OpenCLIP.

    Args:
      name: of the dialect.
      text: before the names of the tower of texts.
      vision: the tower of images.
    """
    return Dialect(
        name,
        TORCH,
        (
            *vision,
            *open_clip_text(text),
            matrix_io(f"{text}text_projection", "text/projection"),
            param("logit_scale", "logit_scale"),
            buffer("{a:input_resolution|context_length|vocab_size}"),
        ),
    )


_OPEN_CLIP_VISION = (
    param("visual.class_embedding", "vision/class_token"),
    conv("visual.conv1", "vision/patch"),
    param("visual.positional_embedding", "vision/position_embedding/embedding"),
    norm("visual.ln_pre", "vision/first_norm"),
    *_open_clip_layers("visual.", "vision"),
    norm("visual.ln_post", "vision/norm"),
    matrix_io("visual.proj", "vision/projection"),
)
OPEN_CLIP = open_clip("open_clip", "", _OPEN_CLIP_VISION)
CUSTOM_TEXT = open_clip("open_clip_custom_text", "text.", _OPEN_CLIP_VISION)

FAMILY = Family(
    "clip",
    ("clip", "clip_vision_model", "clip_text_model"),
    (HUB, VISION, TEXT, OPEN_CLIP, CUSTOM_TEXT, linen(HUB)),
)
