"""What tensor names alone tell: buffers that are recomputed, weights that are tied."""

import re
from collections.abc import Container

from mda_jax.converters.formats import Spec


_RECOMPUTED = re.compile(
    r"(.+\.)?(position_ids|token_type_ids|num_batches_tracked|relative_position_index"
    r"|rotary_emb\.(inv_freq|cos_cached|sin_cached))"
)
_CAUSAL_MASK = re.compile(r"(.+\.)?(attn|attention)\.(bias|masked_bias)")

# Within a group, a model that lacks one name and has another uses that one: the two
# are one weight, and files store it once. A name may have any prefix.
_TIED = (
    (
        "lm_head.weight",
        "model.embed_tokens.weight",
        "transformer.wte.weight",
        "wte.weight",
        "model.language_model.embed_tokens.weight",
        "shared.weight",
        "encoder.embed_tokens.weight",
        "decoder.embed_tokens.weight",
        "model.shared.weight",
        "model.encoder.embed_tokens.weight",
        "model.decoder.embed_tokens.weight",
    ),
    ("proj_out.weight", "model.decoder.embed_tokens.weight"),
    ("embed_out.weight", "gpt_neox.embed_in.weight"),
    *(
        (head, f"{body}embeddings.word_embeddings.weight")
        for head, bodies in {
            "cls.predictions.decoder.weight": ("bert.", ""),
            "lm_head.decoder.weight": ("roberta.", "mpnet.", ""),
            "vocab_projector.weight": ("distilbert.", ""),
        }.items()
        for body in bodies
    ),
    ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    ("lm_head.decoder.bias", "lm_head.bias"),
)


_TOKEN_TABLE = re.compile(
    r"(.+\.)?(embed_tokens(_per_layer)?|wte|word_embeddings|embed_in|embed_out|lm_head"
    r"|tok_embeddings|(lm_head|predictions)\.decoder|vocab_projector)\.(weight|bias)"
    r"|(.+\.)?cls\.predictions\.bias|(.+\.)?final_logits_bias"
    r"|(model\.)?shared\.weight|proj_out\.weight"
)


def is_token_table(name: str) -> bool:
    """Whether a tensor has one row for each token, by its name.

    >>> [is_token_table(f"{n}.weight") for n in ("model.embed_tokens", "model.norm")]
    [True, False]
    """
    return bool(_TOKEN_TABLE.fullmatch(name))


def is_recomputed(name: str, spec: Spec) -> bool:
    """Whether a model rebuilds this tensor by itself, so that files need not have it.

    >>> import numpy as np
    >>> is_recomputed("h.0.attn.bias", Spec((1, 1, 8, 8), np.dtype(np.uint8)))
    True
    >>> is_recomputed("blocks.0.attn.bias", Spec((8,), np.dtype(np.float32)))
    False
    """
    if _CAUSAL_MASK.fullmatch(name):
        return spec.shape == () or (spec.shape[:2] == (1, 1) and len(spec.shape) == 4)
    return bool(_RECOMPUTED.fullmatch(name))


def partners(name: str, held: Container[str]) -> list[str]:
    """The names that a tensor may be tied to, among those a model holds.

    >>> partners("lm_head.weight", {"model.embed_tokens.weight", "lm_head.bias"})
    ['model.embed_tokens.weight']
    """
    found: dict[str, None] = {}
    for group in _TIED:
        for mine in group:
            prefix = name.removesuffix(mine)
            if prefix != name and (not prefix or prefix.endswith(".")):
                found |= dict.fromkeys(prefix + other for other in group)
    return [other for other in found if other != name and other in held]
