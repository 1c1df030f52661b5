"""DARE: unbiased, and drawn from the key, the name and the id alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid

from mda_jax import Layout, Role, Side, merge, primitives as p
from mda_jax.methods import dare_linear, task_arithmetic


KEY = jax.random.key(0)
SHAPES = [(), (7,), (4, 6), (3, 2, 4)]


def rows(method, d, key=KEY):
    return method(jnp.asarray(d), Side(jnp.zeros(d.shape[1:]), key))


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_drops_or_divides_by_the_density(k, shape):
    d = grid(0, (k, *shape)) + 4
    got = np.asarray(rows(dare_linear(0.25, scale=0.5), d))
    np.testing.assert_array_equal(got, np.where(got == 0, 0, 2 * d))


def test_is_right_on_average():
    d, density, times = grid(1, (2, 6)), 0.4, 2000
    keys = jax.random.split(KEY, times)
    got = jax.vmap(lambda key: rows(dare_linear(density, scale=1.0), d, key))(keys)
    # an entry is d / density with that chance: its variance is d^2 (1 / density - 1)
    sigma = np.abs(d) * np.sqrt((1 / density - 1) / times)
    assert (np.abs(got.mean(0) - d) <= 5 * sigma + 1e-4).all()


def test_keeping_all_is_task_arithmetic():
    d = grid(2, (3, 4, 6))
    want = rows(task_arithmetic(0.3), d)
    np.testing.assert_array_equal(rows(dare_linear(1.0, 0.3), d), want)


def test_other_rules_rescale_otherwise():
    d = grid(3, (3, 4, 6))
    norms = np.abs(d).sum((1, 2))
    same = rows(dare_linear(0.3, 1.0, rescale=p.by_l1_norm), d)
    np.testing.assert_allclose(np.abs(same).sum((1, 2)), norms, rtol=1e-5)
    less = rows(dare_linear(0.3, 1.0, rescale=p.as_kept), d)
    assert ((less == 0) | (less == d)).all()


def test_experts_keep_their_masks_in_another_order():
    base, experts = jnp.zeros((4, 6)), [jnp.asarray(grid(i, (4, 6))) for i in range(3)]
    once = merge(base, experts, dare_linear(ids=[7, 8, 9]), key=KEY)
    again = merge(base, experts[::-1], dare_linear(ids=[9, 8, 7]), key=KEY)
    np.testing.assert_allclose(once, again, atol=1e-6)
    other = merge(base, experts, dare_linear(ids=[9, 8, 7]), key=KEY)
    assert (once != other).any()


def test_names_and_places_in_a_stack_have_their_own_masks():
    base = {"a/kernel": jnp.zeros((5, 6)), "b/kernel": jnp.zeros((5, 6))}
    experts = [jax.tree.map(jnp.ones_like, base)]
    got = merge(base, experts, dare_linear(), key=KEY)
    assert (got["a/kernel"] != got["b/kernel"]).any()
    only = merge(base["a/kernel"], [experts[0]["a/kernel"]], dare_linear(), key=KEY)
    stack = Layout(Role.MATRIX, stack=(0,), out=(2,), into=(1,))
    layers = jnp.zeros((2, 5, 6))
    scanned = merge(layers, [layers + 1], dare_linear(), key=KEY, layout={".*": stack})
    assert only.shape == (5, 6) and (scanned[0] != scanned[1]).any()


def test_the_mask_lies_on_the_weight_however_it_is_stored():
    """PyTorch's `[out, in]` against Flax's `[in, heads, dim]` under one name."""
    base, expert = jnp.zeros((6, 5)), jnp.asarray(grid(4, (6, 5))) + 3
    torch = merge(
        base,
        [expert],
        dare_linear(),
        key=KEY,
        layout={".*": Layout(Role.MATRIX, out=(0,), into=(1,))},
    )
    flax = merge(
        base.T.reshape(5, 3, 2),
        [expert.T.reshape(5, 3, 2)],
        dare_linear(),
        key=KEY,
        layout={".*": Layout(Role.MATRIX, out=(1, 2), into=(0,))},
    )
    assert (torch == 0).any() and (torch != 0).any()
    np.testing.assert_array_equal(torch.T.reshape(5, 3, 2), flax)


def test_needs_a_key():
    with pytest.raises(ValueError, match=r"dare.*at random.*jax\.random\.key\(seed\)"):
        rows(dare_linear(), grid(0, (2, 3)), key=None)


@pytest.mark.parametrize("density, hint", [(50, "density=0.5"), (0, ""), (-1, "")])
def test_density_is_a_fraction(density, hint):
    with pytest.raises(ValueError, match=rf"dare_linear.*fraction in \(0, 1\].*{hint}"):
        dare_linear(density)
