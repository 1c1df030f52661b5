"""Pictures of characters: masters from matplotlib's fonts, random draws in JAX."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from jaxtyping import Array, Float, Int, Key, UInt8
from PIL import Image, ImageFont


MASTER, SIDE = 48, 28  # pixels: a master, a drawn image
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSerif",
    "DejaVuSansMono",
    "DejaVuSans-Oblique",
    "STIXGeneral",
)
_BOX = 40  # pixels: the longer side of a glyph's box, side bearings included


@cache
def font_file(font: str) -> Path:
    """The file of a font that matplotlib ships, such as `DejaVuSans`."""
    return Path(matplotlib.get_data_path(), "fonts", "ttf", f"{font}.ttf")


@cache
def covered(font: str) -> frozenset[str]:
    """The characters that a font draws."""
    return frozenset(map(chr, TTFont(font_file(font)).getBestCmap()))


def masters(
    characters: str, fonts: tuple[str, ...] = FONTS
) -> UInt8[np.ndarray, "classes fonts 48 48"]:
    """Draw every character in every font, its box scaled to fit and centred.

    Args:
      characters: one class each; the class is the position in the string.
      fonts: names of fonts that matplotlib ships. A font that lacks a character is
        replaced by the next one that has it.

    Returns:
      `[len(characters), len(fonts), 48, 48]`, ink 255 on 0.

    Raises:
      ValueError: no font has a character.
    """
    pictures = [[_picture(c, f) for f in _who_has(c, fonts)] for c in characters]
    return np.asarray(pictures, np.uint8)


def _who_has(character: str, fonts: tuple[str, ...]) -> list[str]:
    have = [f for f in fonts if character in covered(f)]
    if not have:
        raise ValueError(
            f"masters: no font of {list(fonts)} has {character!r}"
            f" (U+{ord(character):04X}). Leave it out or add a font that has it."
        )
    return [have[i % len(have)] for i in range(len(fonts))]


@cache
def _typeface(font: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_file(font), 2 * MASTER)


@cache
def _picture(character: str, font: str) -> UInt8[np.ndarray, "48 48"]:
    typeface = _typeface(font)
    left, top, right, bottom = map(int, typeface.getbbox(character))
    width, height = max(right - left, 1), max(bottom - top, 1)
    mask = typeface.getmask(character)
    ink = Image.frombytes("L", mask.size, bytes(mask)) if all(mask.size) else None
    canvas = Image.new("L", (MASTER, MASTER))
    if ink is not None:
        shrink = _BOX / max(width, height, *ink.size)
        size = [max(1, round(side * shrink)) for side in ink.size]
        ink = ink.resize((size[0], size[1]), Image.Resampling.BOX)
        canvas.paste(ink, ((MASTER - size[0]) // 2, (MASTER - size[1]) // 2))
    return np.asarray(canvas)


@jax.jit
def draw(
    key: Key[Array, ""],
    pictures: UInt8[Array, "classes fonts 48 48"],
    labels: Int[Array, " n"],
) -> Float[Array, "n 28 28"]:
    """One random picture for each label: font, warp, scale, shift, contrast, noise.

    Args:
      key: decides everything that is random.
      pictures: from `masters`.
      labels: classes, in `[0, classes)`.

    Returns:
      `[n, 28, 28]`, of about zero mean and unit variance.
    """
    return jax.vmap(_draw_one, (0, None, 0))(
        jax.random.split(key, len(labels)), pictures, labels
    )


def _draw_one(key, pictures, label):
    font_key, place_key, wave_key, ink_key, noise_key = jax.random.split(key, 5)
    font = jax.random.randint(font_key, (), 0, pictures.shape[1])
    picture = pictures[label, font].astype(jnp.float32) / 255
    where = _placed(place_key) + _waved(wave_key)
    image = jax.scipy.ndimage.map_coordinates(picture, where, order=1)
    ink = jax.random.uniform(ink_key, (), minval=0.5, maxval=1.0)
    noise = 0.12 * jax.random.normal(noise_key, image.shape)
    return 4 * (ink * image + noise - 0.2)


def _grid():
    """Pixel centres of the drawn image in `[-1, 1]`, `[2, 28, 28]`."""
    line = (jnp.arange(SIDE, dtype=jnp.float32) + 0.5) * (2 / SIDE) - 1
    return jnp.stack(jnp.meshgrid(line, line, indexing="ij"))


def _placed(key):
    """Master coordinates of the pixels under a random affine map, `[2, 28, 28]`."""
    draws = jax.random.uniform(key, (6,), minval=-1.0, maxval=1.0)
    angle, shear = 0.15 * draws[0], 0.15 * draws[1]
    scale, stretch = 1.1 * jnp.exp(0.12 * draws[2]), jnp.exp(0.1 * draws[3])
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turn = jnp.array([[cos, -sin], [sin, cos]])
    lean = jnp.array([[stretch, shear], [0.0, 1 / stretch]])
    point = jnp.einsum("ij,jhw->ihw", scale * turn @ lean, _grid())
    shift = 0.1 * draws[4:, None, None]
    return (point + shift + 1) * (MASTER / 2) - 0.5


def _waved(key):
    """Smooth random displacements in master pixels, `[2, 28, 28]`."""
    coarse = 1.2 * jax.random.normal(key, (2, 4, 4))
    return jax.image.resize(coarse, (2, SIDE, SIDE), "cubic")
