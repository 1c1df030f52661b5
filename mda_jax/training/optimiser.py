"""Averages inside an optax optimiser."""

from typing import Any, NamedTuple

import jax
import optax

from mda_jax.training.averagers import Averager, Params, State


class AveragingState(NamedTuple):
    """The state of an averager, within that of an optimiser."""

    average: State


def averaging(averager: Averager) -> optax.GradientTransformation:
    """The last link of a chain: averages the parameters that its updates lead to.

    Args:
      averager: of the parameters; at the start it is given the first ones.

    Returns:
      A transformation that leaves updates as they are. Its `update` needs `params`.

    >>> import jax.numpy as jnp
    >>> from mda_jax import training
    >>> optimiser = optax.chain(optax.sgd(1.0), averaging(training.uniform()))
    >>> params = jnp.array(4.0)
    >>> state = optimiser.init(params)
    >>> for gradient in (jnp.array(1.0), jnp.array(2.0)):
    ...     updates, state = optimiser.update(gradient, state, params)
    ...     params = optax.apply_updates(params, updates)
    >>> float(params), float(averaged_params(training.uniform(), state))
    (1.0, 2.0)
    """

    def init(params: Params) -> AveragingState:
        return AveragingState(averager.init(params))

    def update(
        updates: Any, state: AveragingState, params: Params = None
    ) -> tuple[Any, AveragingState]:
        if params is None:
            raise ValueError(
                "averaging: found no params; expected optimiser.update(gradients,"
                " state, params)."
            )
        reached = optax.apply_updates(params, updates)
        return updates, AveragingState(averager.update(state.average, reached))

    return optax.GradientTransformation(init, update)


def averaged_params(averager: Averager, state: Any) -> Params:
    """The average within the state of an optimiser, for evaluation.

    Of replicas, whose states are stacked, through `jax.vmap`.

    Args:
      averager: the one that `averaging` was given.
      state: of the whole chain.

    Raises:
      ValueError: the chain has no `averaging`, or several.
    """
    leaves = jax.tree.leaves(state, is_leaf=_is_average)
    found = list(filter(_is_average, leaves))
    if len(found) != 1:
        raise ValueError(
            f"averaged_params: found {len(found)} averages in the state; expected one:"
            " put averaging(...) at the end of the chain, once."
        )
    return averager.value(found[0].average)


def _is_average(x: Any) -> bool:
    return isinstance(x, AveragingState)
