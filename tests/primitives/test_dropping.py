"""Random drops: their rates, what the draws depend on, and the rescale rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, grid

from mda_jax import primitives as p


KEY = jax.random.key(3)
SHAPES = [(), (1,), (7,), (4, 6), (5, 1), (3, 2, 4)]


def five_sigma(rate, draws):
    """What the mean of so many Bernoulli draws stays within, but once in a million."""
    return 5 * np.sqrt(rate * (1 - rate) / draws)


def heights(d):
    """Rank of every magnitude in its row, from -1 to 1; of equal ones the earlier is
    the larger."""
    out = np.zeros(d.shape)
    for row, found in zip(by_rows(d), by_rows(out), strict=True):
        order = sorted(range(row.size), key=lambda i: (abs(row[i]), -i))
        for rank, i in enumerate(order):
            found[i] = 2 * rank / (row.size - 1) - 1 if row.size > 1 else 0.0
    return out


def by_rows(x):
    """The rows of every expert, as views."""
    return x.reshape(int(np.prod(x.shape[: max(1, min(2, x.ndim - 1))])), -1)


def test_keeps_the_share_of_every_expert():
    density, n = np.array([0.1, 0.5, 0.9, 1.0]), 40_000
    kept = p.drop(jnp.ones((4, n)), key=KEY, density=p.per_expert(density))
    rates = np.asarray(kept).mean(1)
    assert (abs(rates - density) <= five_sigma(density, n)).all()
    assert rates[3] == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_kept_is_as_it_was(shape):
    d = jnp.asarray(grid(0, (3, *shape))) + 4
    kept = p.drop(d, key=KEY, density=0.5)
    assert kept.shape == d.shape and ((kept == d) | (kept == 0)).all()
    np.testing.assert_array_equal(p.drop(d, key=KEY, density=1.0), d)


def test_one_probability_per_entry():
    density = jnp.linspace(0, 1, 12).reshape(2, 6)
    count = sum(
        p.drop(jnp.ones((2, 6)), key=key, density=density)
        for key in jax.random.split(KEY, 400)
    )
    rates = np.asarray(count) / 400
    assert (abs(rates - density) <= five_sigma(density, 400)).all()


def test_the_draws_belong_to_the_id():
    d = jnp.ones((3, 50))
    kept = p.drop(d, key=KEY, density=0.5)
    same = p.drop(d, key=KEY, density=0.5, ids=[0, 1, 2])
    turned = p.drop(d[:2], key=KEY, density=0.5, ids=[2, 0])
    np.testing.assert_array_equal(kept, same)
    np.testing.assert_array_equal(turned, kept[jnp.array([2, 0])])
    assert (kept[0] != kept[1]).any() and (kept[1] != kept[2]).any()
    other = p.drop(d, key=jax.random.key(4), density=0.5)
    assert (other != kept).any(1).all()


def test_the_draws_belong_to_the_row():
    d = jnp.ones((2, 5, 40))
    kept = p.drop(d, key=KEY, density=0.5)
    rest = p.drop(d[:, 3:], key=KEY, density=0.5, first_row=3)
    np.testing.assert_array_equal(rest, kept[:, 3:])
    assert len({row.tobytes() for row in np.asarray(kept).reshape(10, 40)}) == 10
    several = p.drop(jnp.ones((2, 5, 8, 5)), key=KEY, density=0.5)
    np.testing.assert_array_equal(several.reshape(d.shape), kept)


def test_ids_are_counted():
    with pytest.raises(ValueError, match=r"ids has shape \(2,\), there are 3"):
        p.drop(jnp.ones((3, 5)), key=KEY, density=0.5, ids=[1, 2])


def test_the_draws_depend_neither_on_precision_nor_on_transformations():
    d = np.ones((2, 3, 40))
    kept = p.drop(jnp.asarray(d, "float32"), key=KEY, density=0.3)
    with jax.enable_x64(True):
        wide = p.drop(jnp.asarray(d), key=KEY, density=0.3)
    np.testing.assert_array_equal(kept, wide)

    def swept(density):
        return p.drop(jnp.ones((2, 3, 40)), key=KEY, density=density)

    both = jax.jit(jax.vmap(swept))(jnp.array([0.3, 0.6]))
    np.testing.assert_array_equal(both[0], kept)
    np.testing.assert_array_equal(both[1], swept(0.6))
    assert ((both[1] != 0) | (both[0] == 0)).all()  # a larger share keeps what was kept


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("shape", SHAPES)
def test_probabilities_by_rank(seed, shape):
    d = np.round(grid(seed, (3, *shape)))  # full of equal magnitudes
    density, epsilon = np.array([0.5, 0.7, 0.3]), np.array([0.2, 0.1, 0.3])
    got = p.rank_density(
        jnp.asarray(d), density=p.per_expert(density), epsilon=p.per_expert(epsilon)
    )
    column = (3, *[1] * len(shape))
    want = density.reshape(column) + epsilon.reshape(column) * heights(d)
    assert_close(got, want, flops=4)


def test_ranks_depend_on_every_bit_of_a_magnitude():
    d = np.float32([[[2.0, -2.0, 2 + 2**-22, 0.0, -0.0, -(2 + 2**-21)]]])
    got = p.rank_density(jnp.asarray(d), density=0.5, epsilon=0.5)
    np.testing.assert_allclose(got, [[[0.6, 0.4, 0.8, 0.2, 0.0, 1.0]]], atol=1e-6)


def test_probabilities_stay_probabilities():
    d = jnp.asarray(grid(0, (2, 3, 8)))
    steep = p.rank_density(d, density=0.5, epsilon=2.0)
    assert steep.min() == 0 and steep.max() == 1
    all_kept = p.rank_density(d, density=1.0, epsilon=0.2)
    np.testing.assert_array_equal(all_kept, jnp.ones_like(d))


def test_drops_by_rank():
    d = jnp.arange(1.0, 9)[None] * jnp.array([[1.0], [-1.0]])
    chances = p.rank_density(d, density=0.5, epsilon=0.4)
    kept = sum(
        np.sign(np.abs(p.drop(d, key=key, density=chances)))
        for key in jax.random.split(KEY, 400)
    )
    rates = np.linspace(0.1, 0.9, 8)
    assert (abs(kept / 400 - rates) <= five_sigma(rates, 400)).all()


def test_rescale_rules():
    d, kept = jnp.array([[1.0, -3.0], [2.0, 5.0]]), jnp.array([[1.0, 0.0], [2.0, 5.0]])
    density = jnp.array([0.25, 0.5])
    by_chance = p.by_probability(kept, d, density)
    np.testing.assert_array_equal(by_chance, [[4.0, 0.0], [4.0, 10.0]])
    by_norm = p.by_l1_norm(kept, d, density)
    np.testing.assert_array_equal(by_norm, [[4.0, 0.0], [2.0, 5.0]])
    np.testing.assert_array_equal(p.as_kept(kept, d, density), kept)


def test_norms_that_are_next_to_nothing_are_let_alone():
    d, kept = jnp.array([[1e-8, -3e-8], [1.0, 1.0]]), jnp.array([[1e-8, 0], [0, 0]])
    np.testing.assert_array_equal(p.by_l1_norm(kept, d, 0.5), kept)


@pytest.mark.parametrize("rule", [p.by_probability, p.by_l1_norm, p.as_kept])
@pytest.mark.parametrize("density", [0.0, 0.5])
def test_slopes_are_finite_where_nothing_is_left(rule, density):
    def loss(d):
        return rule(p.drop(d, key=KEY, density=density), d, density).sum()

    for d in (jnp.zeros((2, 5)), jnp.ones((2, 5))):
        assert jnp.isfinite(jax.grad(loss)(d)).all()
