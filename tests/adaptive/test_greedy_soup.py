"""Recipe 1 of the paper, on worths that are easy to follow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mda_jax.adaptive import greedy_soup


def expert(x, dtype=jnp.float32):
    return {"w": jnp.full((2, 3), x, dtype), "deep": [jnp.asarray(x, dtype)]}


def near(target):
    """Worth falls with the distance of the weights from the target."""
    return lambda params: -abs(float(params["w"].mean()) - target)


def recipe(experts, worth):
    """Recipe 1, with averages of lists."""

    def average(members):
        return jax.tree.map(lambda *xs: np.mean(xs, 0), *[experts[i] for i in members])

    order = sorted(range(len(experts)), key=lambda i: -worth(experts[i]))
    members = order[:1]
    for i in order[1:]:
        if worth(average([*members, i])) >= worth(average(members)):
            members.append(i)
    return average(members), tuple(members)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("k", [1, 2, 6])
def test_is_recipe_1(seed, k):
    draw = np.random.default_rng(seed)
    experts = [expert(float(x)) for x in draw.integers(-64, 64, size=k) / 16]
    got = greedy_soup(experts, near(0.3))
    params, members = recipe(experts, near(0.3))
    assert got.members == members
    jax.tree.map(np.testing.assert_array_equal, got.params, params)
    assert got.worth == near(0.3)(got.params)


def test_the_best_comes_first_and_what_harms_is_left_out():
    got = greedy_soup([expert(x) for x in (4.0, 1.0, -0.5, 9.0)], near(0.0))
    assert got.members == (2, 1) and got.params["w"][0, 0] == 0.25


def test_equal_worth_is_kept_and_the_earlier_goes_first():
    got = greedy_soup([expert(x) for x in (1.0, 2.0, 3.0)], lambda params: 0.5)
    assert got.members == (0, 1, 2) and got.worth == 0.5


def test_an_expert_that_diverged_is_left_out():
    experts = [expert(np.nan), expert(1.0), expert(-1.0)]
    got = greedy_soup(experts, near(0.0))
    assert got.members == (1, 2) and got.params["deep"][0] == 0


def test_rounding_does_not_compound():
    """The mean of the first two rounds to 1, that of all three to 1 + 2**-7."""
    experts = [expert(1 + x * 2.0**-7, jnp.bfloat16) for x in (1, 0, 1)]
    got = greedy_soup(experts, lambda params: 0)
    assert got.params["w"].dtype == jnp.bfloat16
    assert got.params["w"][0, 0] == jnp.bfloat16(1 + 2.0**-7)


def test_integers_are_those_of_the_best_expert():
    experts = [{"w": jnp.float32(i), "step": jnp.int32(i)} for i in range(3)]
    got = greedy_soup(experts, lambda params: 0 if params["w"] == 0 else 1)
    assert got.members[0] == 1 and got.params["step"] == 1


def test_float64_stays():
    with jax.enable_x64(True):
        experts = [{"w": jnp.asarray([x], jnp.float64)} for x in (0.1, 0.2)]
        got = greedy_soup(experts, lambda params: 0)
        np.testing.assert_array_equal(got.params["w"], [(0.1 + 0.2) / 2])


def test_worth_is_asked_for_each_expert_and_each_average():
    asked = []
    greedy_soup([expert(float(i)) for i in range(4)], lambda x: asked.append(x) or 0)
    assert len(asked) == 7


def test_experts_fit_each_other():
    with pytest.raises(ValueError, match=r"greedy_soup.*empty"):
        greedy_soup([], lambda params: 0)
    with pytest.raises(ValueError, match=r"greedy_soup: experts\[1\]"):
        greedy_soup([{"a": jnp.ones(2)}, {"b": jnp.ones(2)}], lambda params: 0)
