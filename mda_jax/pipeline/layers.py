"""Which layer a tensor belongs to, told by its name."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


_NUMBER = re.compile(r"(?:^|\.)(\d+)(?=\.)")
_BEFORE = re.compile(
    r"embed|wte|wpe|token_type|patch|conv_in|cls_token|class_token|pos_emb|ln_pre"
    r"|pre_?layer_?norm|conv1|stem"
)
_AFTER = re.compile(r"lm_head|embed_out|unembed|post")


class Layer(NamedTuple):
    """A layer of a stack, and the tensor of it: a name in three pieces."""

    stack: str  # what stands before the number, such as `model.layers.`
    digits: str
    tensor: str  # what stands after it

    @property
    def number(self) -> int:
        """Of the layer."""
        return int(self.digits)

    def renumbered(self, digits: str) -> str:
        """The name with another number.

        >>> layer("h.3.ln_1.bias").renumbered("*")
        'h.*.ln_1.bias'
        """
        return f"{self.stack}{digits}{self.tensor}"


class Stack(NamedTuple):
    """Layers that follow each other."""

    first: int  # number
    length: int  # how many there are
    width: int  # least number of digits

    def digits(self, place: int) -> str:
        """The number of the layer at a place, counted from 0, as names have it.

        >>> Stack(first=1, length=12, width=2).digits(4)
        '05'
        """
        return f"{self.first + place:0{self.width}d}"


def layer(name: str) -> Layer | None:
    """The layer that a name's first number tells.

    >>> layer("model.layers.3.mlp.experts.1.weight")
    Layer(stack='model.layers.', digits='3', tensor='.mlp.experts.1.weight')
    >>> layer("model.norm.weight")
    """
    return split(name, _NUMBER.search(name))


def split(name: str, found: re.Match[str] | None) -> Layer | None:
    """A name in three pieces around the group of a match."""
    if found is None:
        return None
    start, stop = found.span(1)
    return Layer(name[:start], name[start:stop], name[stop:])


def stack(layers: Sequence[Layer]) -> Stack:
    """What tensors of one stack tell about it.

    >>> stack([Layer("h.", digits, ".a") for digits in ("01", "02")])
    Stack(first=1, length=2, width=2)
    """
    numbers = {each.number for each in layers}
    return Stack(min(numbers), len(numbers), min(len(each.digits) for each in layers))


def is_stack(layers: Sequence[Layer]) -> bool:
    """Whether numbers in names are likely to be those of layers.

    They are if they go from 0 up without a gap, unless each stands in one name alone
    (`classifier.0.weight`).
    """
    numbers = Counter(each.number for each in layers)
    return sorted(numbers) == list(range(len(numbers))) and max(numbers.values()) > 1


def comes_first(name: str) -> bool:
    """Whether a tensor outside the layers is used before them, such as an embedding.

    >>> comes_first("model.embed_tokens.weight"), comes_first("lm_head.weight")
    (True, False)
    """
    return bool(_BEFORE.search(name)) and not _AFTER.search(name)
