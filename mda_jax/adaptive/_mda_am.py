"""MDA-AM: adaptive merging with directional alignment, reconstructed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from mda_jax._types import Number
from mda_jax.adaptive._coefficients import Coefficients, combined, layer_wise
from mda_jax.adaptive._descent import Descent, Watch, descend
from mda_jax.features import (
    ClassMeans,
    alignment_loss,
    centre,
    centred_directions,
    entropy,
    rotation_loss,
)
from mda_jax.linalg import procrustes_rotation


Apply = Callable[[Any, Any], tuple[jax.Array, jax.Array]]
Chart = Callable[[Float[Array, " t *p"]], Float[Array, "t d d"]]


def mda_am(
    base: Any,
    deltas: Sequence[Any],
    apply_fns: Sequence[Apply],
    targets: Sequence[Float[Array, "_ d"]],
    batches: Iterable[Any],
    *,
    alpha: Number = 1.0,
    beta: Number = 1.0,
    chart: Chart | None = None,
    turns: Float[Array, " t *p"] | None = None,
    teachers: Sequence[Any] | None = None,
    keep: Number = 0.9,
    start: Coefficients | Descent | None = None,
    optimiser: optax.GradientTransformation | None = None,
    patience: int | None = None,
    watch: Watch = lambda step, loss: None,
) -> Descent:
    """AdaMerging, with features pulled to a simplex frame of each task.

    Args:
      base: parameters.
      deltas: k trees like `base`; see `task_vectors`.
      apply_fns: for each task `(parameters, inputs) -> (features [n, d], logits
        [n, classes])`.
      targets: for each task the simplex frame its classes are to meet; see
        `features.aligned_targets` and `features.random_targets`.
      batches: one item a step: the inputs of every task, a sequence or an array with
        one row a task.
      alpha: weight of the alignment of features to targets; 0 together with `beta`
        is `adamerging`, step by step.
      beta: weight of the distance between learned and Procrustes rotations; without
        `chart` they are equal.
      chart: None turns features by the Procrustes rotation of the running class
        means; `linalg.exp_rotation`, `linalg.cayley_rotation` or
        `linalg.low_rank_rotation` learns the rotations.
      turns: parameters of the chart to start from, one item a task; default 0 `[d, d]`.
      teachers: parameters of each task's expert. They label the inputs instead of the
        merged model, and the cross-entropy to their labels replaces the entropy.
      keep: what earlier batches count in the class means, in [0, 1].
      start: coefficients to start from, or a descent to go on with; default 0.3 for
        every leaf and delta.
      optimiser: any of optax; default Adam at 1e-3.
      patience: stop early when the mean loss of so many steps is not below that of as
        many before.
      watch: called with the number of steps done and the loss.

    Returns:
      The descent: `params` are the merged parameters, `trained` holds the
      `coefficients` and the parameters of the `rotations`, which serve the loss alone.

    Paper:
      Chen et al., From Coefficients to Directions: Rethinking Model Merging with
      Directional Alignment, 2025, https://arxiv.org/abs/2512.00391.
      A reconstruction, made without the paper's full text or code. Stated by the
      authors: layer-wise coefficients minimise entropy, plus alpha times a squared pull
      of rotated features to the vector of their class in a simplex frame, plus beta
      times a loss that keeps the rotations near the Procrustes rotation from class
      means to targets. Ours: pseudo-labels from the merged model or from teachers,
      exponential class means, unit features about the centre of the class means,
      closed-form rotations by default.
    """
    if not isinstance(start, Descent):
        coefficients = layer_wise(base, len(deltas)) if start is None else start
        start = _first(coefficients, targets, turns)
    weights = (jnp.float32(alpha), jnp.float32(beta), jnp.float32(keep))
    return descend(
        _Loss(tuple(apply_fns), chart),
        (base, list(deltas), list(targets), teachers and list(teachers), weights),
        lambda trained: combined(base, deltas, trained["coefficients"]),
        start,
        batches,
        optimiser=optimiser,
        patience=patience,
        watch=watch,
    )


def _first(
    coefficients: Coefficients,
    targets: Sequence[Float[Array, "_ d"]],
    turns: Float[Array, " t *p"] | None,
) -> tuple[dict, tuple[ClassMeans, ...]]:
    width = targets[0].shape[1]
    if turns is None:
        turns = jnp.zeros((len(targets), width, width))
    means = tuple(ClassMeans.empty(*each.shape) for each in targets)
    return {"coefficients": coefficients, "rotations": turns}, means


@dataclass(frozen=True)
class _Loss:
    """Uncertainty of the predictions, distance of the features from their frame."""

    apply_fns: tuple[Apply, ...]
    chart: Chart | None

    def __call__(
        self, fixed: tuple, trained: dict, means: tuple[ClassMeans, ...], batch: Any
    ) -> tuple[jax.Array, tuple[ClassMeans, ...]]:
        base, deltas, targets, teachers, (alpha, beta, keep) = fixed
        params = combined(base, deltas, trained["coefficients"])
        found = [f(params, x) for f, x in zip(self.apply_fns, batch, strict=True)]
        labels, uncertainty = _predictions(self.apply_fns, teachers, batch, found)
        means = tuple(
            before.observe(jax.lax.stop_gradient(z), label, keep=keep)
            for before, (z, _), label in zip(means, found, labels, strict=True)
        )
        nearest = jax.lax.stop_gradient(_nearest_rotations(means, targets))
        rotations = nearest if self.chart is None else self.chart(trained["rotations"])
        total = jnp.stack(uncertainty).sum()
        parts = zip(found, means, labels, rotations, nearest, targets, strict=True)
        for (z, _), mean, label, rotation, near, target in parts:
            centred = z - jax.lax.stop_gradient(centre(mean.means))[None]
            total += alpha * alignment_loss(centred, label, rotation, target)
            total += beta * rotation_loss(rotation, near)
        return total, means


def _predictions(
    apply_fns: Sequence[Apply],
    teachers: list[Any] | None,
    batch: Any,
    found: list[tuple[jax.Array, jax.Array]],
) -> tuple[list[Int[Array, " n"]], list[jax.Array]]:
    """Labels of the samples of each task, and how far the logits are from certain."""
    if teachers is None:
        labels = [logits.argmax(-1) for _, logits in found]
        return labels, [entropy(logits) for _, logits in found]
    taught = zip(apply_fns, teachers, batch, strict=True)
    labels = [f(teacher, x)[1].argmax(-1) for f, teacher, x in taught]
    return labels, [
        optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
        for (_, logits), label in zip(found, labels, strict=True)
    ]


def _nearest_rotations(
    means: Sequence[ClassMeans], targets: Sequence[Float[Array, "_ d"]]
) -> Float[Array, "t d d"]:
    """Procrustes rotations from unit centred class means to targets, as one batch."""
    pairs = zip(means, targets, strict=True)
    moments = jnp.stack(
        [centred_directions(mean.means).T @ target for mean, target in pairs]
    )
    identity = jnp.broadcast_to(jnp.eye(moments.shape[-1]), moments.shape)
    return procrustes_rotation(identity, moments)
