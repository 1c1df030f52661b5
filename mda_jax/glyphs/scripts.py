"""Which characters make up a task: the suites, the pretraining scripts, the unseen.

The ranges are Unicode code points. `alphabets.json` beside this file holds the classes
they came to, so that a class keeps its number whatever draws the fonts later.
"""

import json
import unicodedata
from functools import cache
from pathlib import Path

import numpy as np

from mda_jax.glyphs import images
from mda_jax.pipeline.errors import ConfigError


Ranges = list[tuple[int, int]]

TASKS: dict[str, Ranges] = {
    "upper": [(0x41, 0x5A)],
    "digits": [(0x30, 0x39)],
    "greek": [(0x391, 0x3A9), (0x3B1, 0x3C9)],
    "cyrillic": [(0x410, 0x44F)],
    "armenian": [(0x531, 0x556), (0x561, 0x586)],
    "arabic": [(0x621, 0x64A)],
    "arrows": [(0x2190, 0x21FF)],
    "georgian": [(0x10D0, 0x10F0), (0x10A0, 0x10C5)],
    "lower": [(0x61, 0x7A)],
    "latin_1": [(0xC0, 0xFF)],
    "hebrew": [(0x5D0, 0x5EA)],
    "lao": [(0xE81, 0xEDD)],
    "canadian_syllabics": [(0x1401, 0x1676)],
    "currency": [(0x20A0, 0x20BF), (0xA2, 0xA5)],
    "latin_extended_a": [(0x100, 0x17F)],
    "nko": [(0x7C0, 0x7EA)],
    "ogham": [(0x1680, 0x169C)],
    "greek_extended": [(0x1F00, 0x1FFF)],
    "tifinagh": [(0x2D30, 0x2D67)],
    "lisu": [(0xA4D0, 0xA4FF)],
}
UNSEEN: dict[str, Ranges] = {
    "old_italic": [(0x10300, 0x1032F)],
    "cyrillic_supplement": [(0x500, 0x52F), (0x402, 0x40F), (0x452, 0x45F)],
    "braille": [(0x2801, 0x283F)],
    "emoticons": [(0x1F600, 0x1F64F)],
}
PRETRAINING: dict[str, Ranges] = {
    "latin_extended_b": [(0x180, 0x24F)],
    "ipa": [(0x250, 0x2AF)],
    "phonetic_extensions": [(0x1D00, 0x1DBF)],
    "letterlike": [(0x2100, 0x214F)],
    "number_forms": [(0x2150, 0x218F)],
    "mathematical_operators": [(0x2200, 0x22FF)],
    "technical": [(0x2300, 0x23FF)],
    "geometric_shapes": [(0x25A0, 0x25FF)],
    "symbols": [(0x2600, 0x26FF)],
    "dingbats": [(0x2700, 0x27BF)],
    "hexagrams": [(0x4DC0, 0x4DFF)],
    "tai_xuan_jing": [(0x1D300, 0x1D35F)],
}
EVERY = (*TASKS, *UNSEEN)  # random keys count on this order
SUITES: dict[str, tuple[str, ...]] = {
    "8": tuple(TASKS)[:8],
    "14": tuple(TASKS)[:14],
    "20": tuple(TASKS),
    "unseen": tuple(UNSEEN),
}
_FILE = Path(__file__).with_name("alphabets.json")
_FONT = "DejaVuSans"  # has every class


@cache
def _alphabets() -> dict[str, str]:
    return json.loads(_FILE.read_text(encoding="ascii"))


def alphabet(task: str) -> str:
    """The classes of a task or of `pretraining`, one character each.

    Raises:
      ConfigError: there is no such task.

    >>> alphabet("digits")
    '0123456789'
    """
    if task not in _alphabets():
        raise ConfigError(
            f"glyphs: no task {task!r}; there are: {', '.join(_alphabets())}."
        )
    return _alphabets()[task]


def distinct(ranges: Ranges, most: int, alike: float) -> str:
    """The drawn characters of some ranges that differ from each other.

    Args:
      ranges: first and last code point of each range.
      most: at most so many, evenly spaced over what remains.
      alike: correlation of two masters, in [0, 1], from which on the later one is
        dropped (`C` and its Cyrillic twin, or `o` and `O`: masters have one size).
    """
    points = (chr(c) for low, high in ranges for c in range(low, high + 1))
    drawn = [c for c in points if unicodedata.category(c)[0] in "LNSP"]
    drawn = [c for c in drawn if c in images.covered(_FONT)]
    pictures = images.masters("".join(drawn), (_FONT,)).reshape(len(drawn), -1)
    flat = pictures - pictures.mean(1, keepdims=True)
    size = np.linalg.norm(flat, axis=1)
    cosines = flat @ flat.T / np.maximum(np.outer(size, size), 1e-9)
    keep: list[int] = []
    for i in range(len(drawn)):
        if size[i] > 0 and all(cosines[i, j] < alike for j in keep):
            keep.append(i)
    chosen = np.linspace(0, len(keep) - 1, min(most, len(keep))).round().astype(int)
    return "".join(drawn[keep[i]] for i in chosen)


def all_alphabets() -> dict[str, str]:
    """What `alphabets.json` holds, from the ranges and the fonts at hand."""
    tasks = {
        name: distinct(r, most=36, alike=0.8) for name, r in (TASKS | UNSEEN).items()
    }
    everything = [pair for ranges in PRETRAINING.values() for pair in ranges]
    return tasks | {"pretraining": distinct(everything, most=10_000, alike=0.99)}
