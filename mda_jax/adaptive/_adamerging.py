"""AdaMerging."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mda_jax.adaptive._coefficients import Coefficients, combined, layer_wise
from mda_jax.adaptive._descent import Descent, Watch, descend
from mda_jax.features import entropy


Apply = Callable[[Any, Any], jax.Array]


def adamerging(
    base: Any,
    deltas: Sequence[Any],
    apply_fns: Sequence[Apply],
    batches: Iterable[Any],
    *,
    start: Coefficients | Descent | None = None,
    optimiser: optax.GradientTransformation | None = None,
    patience: int | None = None,
    watch: Watch = lambda step, loss: None,
) -> Descent:
    """Learn coefficients that make the merged model certain of unlabelled data.

    Args:
      base: parameters.
      deltas: k trees like `base`; see `task_vectors`.
      apply_fns: for each task `(parameters, inputs) -> logits [n, classes]`; the number
        of tasks need not be k.
      batches: one item a step: the inputs of every task, a sequence or an array with
        one row a task.
      start: coefficients to start from, or a descent to go on with; default 0.3 for
        every leaf and delta (`layer_wise`).
      optimiser: any of optax; default Adam at 1e-3.
      patience: stop early when the mean loss of so many steps is not below that of as
        many before.
      watch: called with the number of steps done and the loss.

    Returns:
      The descent: `params` are the merged parameters, `trained` the coefficients.

    Paper:
      Yang et al., AdaMerging, 2023, https://arxiv.org/abs/2310.02575, section 3.2.
      Differs: the entropy has no 1e-8 inside its logarithm.
    """
    if start is None:
        start = layer_wise(base, len(deltas))
    return descend(
        _Entropy(tuple(apply_fns)),
        (base, list(deltas)),
        partial(combined, base, deltas),
        start if isinstance(start, Descent) else (start, None),
        batches,
        optimiser=optimiser,
        patience=patience,
        watch=watch,
    )


@dataclass(frozen=True)
class _Entropy:
    """The loss: how uncertain the merged model is of each task, summed over tasks."""

    apply_fns: tuple[Apply, ...]

    def __call__(
        self,
        fixed: tuple[Any, list[Any]],
        coefficients: Coefficients,
        carried: None,
        batch: Any,
    ) -> tuple[jax.Array, None]:
        params = combined(*fixed, coefficients)
        logits = [f(params, x) for f, x in zip(self.apply_fns, batch, strict=True)]
        return jnp.stack([entropy(each) for each in logits]).sum(), carried
