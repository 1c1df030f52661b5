"""The greedy model soup."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mda_jax import _check, trees


class Soup(NamedTuple):
    """Averaged experts.

    Attributes:
      params: their average.
      members: which experts, in the order in which they were added.
      worth: of the average.
    """

    params: Any
    members: tuple[int, ...]
    worth: float


def greedy_soup(experts: Sequence[Any], worth: Callable[[Any], Any]) -> Soup:
    """Average experts, the best first, as long as the average gets no worse.

    Args:
      experts: k >= 1 trees of one structure.
      worth: `parameters -> number`, such as the accuracy on held-out data; higher is
        better. Called `2 k - 1` times.

    Returns:
      The soup, in the experts' dtypes. The average is taken in float32 (float64 where
      the experts are); integers and booleans are those of the best expert. Among
      experts of equal worth the earlier comes first. An average whose worth is NaN is
      not kept.

    Raises:
      ValueError: there is no expert, or one has other names or shapes than the first.

    Paper:
      Wortsman et al., Model soups, 2022, https://arxiv.org/abs/2203.05482, Recipe 1.
    """
    _check.some_experts("greedy_soup", len(experts))
    leaves = trees.named(experts[0])
    _check.arrays("greedy_soup", "experts[0]", leaves)
    for i, expert in enumerate(experts):
        _check.same_leaves("greedy_soup", f"experts[{i}]", leaves, trees.named(expert))
    alone = [float(worth(expert)) for expert in experts]
    first, *others = np.argsort(np.negative(alone), kind="stable").tolist()
    best = Soup(experts[first], (first,), alone[first])
    total = jax.tree.map(_wide, best.params)
    for i in others:
        members = (*best.members, i)
        more = jax.tree.map(_added, total, experts[i])
        params = jax.tree.map(partial(_mean, len(members)), more, best.params)
        value = float(worth(params))
        if value >= best.worth:
            best, total = Soup(params, members, value), more
    return best


def _wide(leaf: Any) -> Any:
    if not _check.is_merged(leaf):
        return leaf
    return jnp.asarray(leaf, jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32)


def _added(total: Any, leaf: Any) -> Any:
    return total + _wide(leaf) if _check.is_merged(leaf) else total


def _mean(count: int, total: Any, like: Any) -> Any:
    return (total / count).astype(like.dtype) if _check.is_merged(like) else like
