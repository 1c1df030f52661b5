"""Which layer a tensor belongs to, told by its name."""

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple


_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.)")
_BEFORE = re.compile(
    r"embed|wte|wpe|token_type|patch|conv_in|cls_token|class_token|pos_emb|ln_pre"
    r"|pre_?layer_?norm|conv1|stem"
)
_AFTER = re.compile(r"lm_head|embed_out|unembed|post")


class Layer(NamedTuple):
    """A layer of a stack."""

    stack: str  # what stands before the number, such as `model.layers`
    number: int


def layer(name: str) -> Layer | None:
    """The layer that a name's first number tells.

    >>> layer("model.layers.3.mlp.experts.1.weight")
    Layer(stack='model.layers', number=3)
    >>> layer("model.norm.weight")
    """
    found = _NUMBER.search(name)
    return Layer(name[: found.start()], int(found[1])) if found else None


def renumbered(name: str, index: int) -> str:
    """The name with another number of its layer.

    >>> renumbered("h.3.ln_1.bias", 0)
    'h.0.ln_1.bias'
    """
    found = _NUMBER.search(name)
    assert found
    return f"{name[: found.start(1)]}{index}{name[found.end(1) :]}"


def stacks(names: Iterable[str]) -> dict[str, int]:
    """The stacks of layers of a model, and how many layers each has.

    Only numbers that go from 0 up without a gap count as those of layers, and layers
    that hold one tensor each (`classifier.0.weight`) are no stack.

    >>> stacks(["h.0.a", "h.0.b", "h.1.a", "h.1.b", "head.0.bias", "norm"])
    {'h': 2}
    """
    held: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for found in filter(None, map(layer, names)):
        held[found.stack][found.number] += 1
    return {
        stack: len(layers)
        for stack, layers in held.items()
        if sorted(layers) == list(range(len(layers))) and max(layers.values()) > 1
    }


def comes_first(name: str) -> bool:
    """Whether a tensor outside the layers is used before them, such as an embedding.

    >>> comes_first("model.embed_tokens.weight"), comes_first("lm_head.weight")
    (True, False)
    """
    return bool(_BEFORE.search(name)) and not _AFTER.search(name)
