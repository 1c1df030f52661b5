import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mda_jax.glyphs import images


def test_masters_are_centred_and_nearly_fill_their_box():
    pictures = images.masters("AWo")
    assert pictures.shape == (3, len(images.FONTS), images.MASTER, images.MASTER)
    for picture in pictures.reshape(-1, images.MASTER, images.MASTER):
        lines = [np.flatnonzero(picture.max(axis)) for axis in (0, 1)]
        assert 30 <= max(line[-1] - line[0] + 1 for line in lines) <= 40
        for line in lines:  # the box is centred; bearings may differ by 6 pixels
            assert abs(line[0] + line[-1] - (images.MASTER - 1)) <= 6


def test_a_font_without_the_character_is_replaced():
    only, borrowed = images.masters("א", ("DejaVuSans", "STIXGeneral"))[0]
    np.testing.assert_array_equal(only, borrowed)
    assert "א" not in images.covered("STIXGeneral")


def test_a_character_that_no_font_has_is_named():
    with pytest.raises(ValueError, match=r"masters: no font .*\(U\+4E00\)"):
        images.masters("一")


def test_a_draw_depends_on_its_key_alone():
    pictures, labels = jnp.asarray(images.masters("AB")), jnp.array([0, 1, 1])
    first, again, other = (
        images.draw(jax.random.key(seed), pictures, labels) for seed in (0, 0, 1)
    )
    assert first.shape == (3, images.SIDE, images.SIDE)
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first[1], first[2])  # one class, two pictures


def test_draws_look_like_their_masters():
    """The mean of many draws is nearest to the master of its own class."""
    pictures = jnp.asarray(images.masters("AOTL", ("DejaVuSans",)))
    labels = jnp.repeat(jnp.arange(4), 64)
    drawn = images.draw(jax.random.key(0), pictures, labels)
    means = np.asarray(drawn).reshape(4, 64, -1).mean(1)
    small = jax.image.resize(pictures[:, 0].astype(jnp.float32), (4, 28, 28), "linear")
    both = np.corrcoef(means, np.asarray(small).reshape(4, -1))
    assert (both[:4, 4:].argmax(1) == np.arange(4)).all()
