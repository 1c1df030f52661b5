"""Reading `open_clip_config.json`, the config of OpenCLIP."""

from collections.abc import Mapping
from typing import Any, Literal

from mda_jax.converters.errors import ConversionError
from mda_jax.converters.models.config import HubConfig


class NormConfig(HubConfig):
    """Arguments of the norms of a tower."""

    eps: float = 1e-5


class TowerConfig(HubConfig):
    """Fields that both towers have; few of OpenCLIP's variants are in CLIP."""

    width: int
    layers: int = 12
    mlp_ratio: float = 4.0
    norm_kwargs: NormConfig | None = None
    act_kwargs: Literal[None] = None
    ls_init_value: Literal[None] = None
    block_type: Literal[None, "default"] = None
    qk_norm: Literal[False] = False
    scaled_cosine_attn: Literal[False] = False
    scale_heads: Literal[False] = False
    scale_attn_inner: Literal[False] = False
    scale_attn: Literal[False] = False
    scale_fc: Literal[False] = False

    def as_hub(self) -> dict[str, Any]:
        """The fields that transformers' towers share."""
        return {
            "hidden_size": self.width,
            "intermediate_size": int(self.width * self.mlp_ratio),
            "num_hidden_layers": self.layers,
            "layer_norm_eps": (self.norm_kwargs or NormConfig()).eps,
        }


class VisionConfig(TowerConfig):
    """Fields of a tower of images that is a transformer."""

    width: int = 768
    head_width: int = 64
    patch_size: int = 16
    image_size: int = 224
    attentional_pool: Literal[False] = False
    no_ln_pre: Literal[False] = False
    final_ln_after_pool: bool = False  # of one token: the same before and after
    pool_type: Literal["tok"] = "tok"
    pos_embed_type: str = "learnable"  # how the stored places began
    timm_model_name: Literal[None] = None


class ResNetConfig(HubConfig):
    """Fields of a tower of images that is a ResNet."""

    layers: tuple[int, int, int, int]
    width: int = 64
    head_width: int = 64
    image_size: int = 224
    patch_size: Literal[None] = None

    @property
    def heads(self) -> int:
        """Of the attention that pools, which is 32 times as wide."""
        return self.width * 32 // self.head_width


class TextConfig(TowerConfig):
    """Fields of the tower of texts."""

    width: int = 512
    heads: int = 8
    context_length: int = 77
    vocab_size: int = 49408
    embed_cls: Literal[False] = False
    no_causal_mask: Literal[False] = False
    pool_type: Literal["argmax", "eos"] = "argmax"
    eos_id: int = 2
    proj_bias: Literal[False] = False
    proj_type: Literal["linear"] = "linear"
    hf_model_name: Literal[None] = None

    @property
    def eos_token_id(self) -> int:
        """As transformers has it, where 2 stands for the highest id of a text.

        Raises:
          ConversionError: the token that ends texts has the id 2.
        """
        if self.pool_type == "eos" and self.eos_id == 2:
            raise ConversionError(
                "open_clip_config.json: 'eos_id' is 2, which CLIP's config cannot say."
            )
        return self.eos_id if self.pool_type == "eos" else 2


class _Shared(HubConfig):
    """Fields that all models have."""

    embed_dim: int
    text_cfg: TextConfig
    quick_gelu: bool = False
    init_logit_bias: Literal[None] = None

    @property
    def shared(self) -> dict[str, Any]:
        """The fields that both towers of transformers' have of the model's."""
        return {
            "hidden_act": "quick_gelu" if self.quick_gelu else "gelu",
            "projection_dim": self.embed_dim,
        }

    @property
    def text(self) -> dict[str, Any]:
        """The config of the tower of texts as transformers has it."""
        text = self.text_cfg
        return {
            "model_type": "clip_text_model",
            **text.as_hub(),
            **self.shared,
            "num_attention_heads": text.heads,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "eos_token_id": text.eos_token_id,
        }


class Config(_Shared):
    """Fields of a model whose tower of images is a transformer."""

    vision_cfg: VisionConfig


class ConfigOfResNet(_Shared):
    """Fields of a model whose tower of images is a ResNet."""

    vision_cfg: ResNetConfig


def as_hub(content: Mapping[str, Any]) -> dict[str, Any]:
    """The `config.json` of transformers' CLIP that describes the same model.

    Args:
      content: of `open_clip_config.json`.

    Raises:
      ConversionError: transformers' CLIP has no such model.
    """
    config = Config.read(content["model_cfg"])
    vision = config.vision_cfg
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "vision_config": {
            "model_type": "clip_vision_model",
            **vision.as_hub(),
            **config.shared,
            "num_attention_heads": vision.width // vision.head_width,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
        },
        "text_config": config.text,
    }
