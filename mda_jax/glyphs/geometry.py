"""Many merges: their accuracy against the geometry of what they do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array, Float, Int

from mda_jax import engine, methods, primitives as p
from mda_jax.combine import is_matrix, stage, where
from mda_jax.features import (
    align,
    aligned_targets,
    centred_directions,
    class_means,
    etf_deviation,
)
from mda_jax.glyphs import tune
from mda_jax.glyphs.score import (
    Exam,
    Scores,
    accuracies,
    check_methods,
    exam,
    features_of,
    own_accuracies,
    own_suite,
)
from mda_jax.glyphs.store import SHIPPED, Weights


MULTIPLES = (0.3, 0.45, 0.6, 0.8, 1.0, 1.25, 1.6, 2.0)  # of a method's scale
MEASURES = ("etf_deviation", "angle", "turned_angle", "energy")
FEW = 4  # the frame of the bound has a fourth of the directions that merging uses


def geometry(
    names: Sequence[str],
    *,
    suite: str = "8",
    settings: Mapping[str, tune.Hyper] | None = None,
    seed: int = 0,
    weights: Weights = SHIPPED,
    size: int = 200,
    report: Callable[[str], None] = lambda line: None,
) -> Scores:
    """Merge a suite with several methods at several scales, and measure each merge.

    Args:
      names: names of `mda_jax.methods`; those without a scale give one merge.
      suite: `8`, `14` or `20`.
      settings: numbers of methods around which the scale varies; default the method's.
      seed: decides the pictures.
      weights: the trained parameters.
      size: pictures for each task.
      report: called with a line of text now and then.

    Returns:
      `merges`, a list with, for each merge, `method`, `hyper`, `accuracy` and
      `normalised` accuracy, and means over tasks of
      `etf_deviation` of the centred class means (`features.etf_deviation`),
      `angle` in degrees between class means and the simplex frame of the task's head,
      `turned_angle`, the same after the best rotation; and `energy`, the share of the
      merged delta of linear maps inside the span of the simplex frame of the experts'
      few leading directions, which the bound of the paper's theory rests on.
      `correlations` of accuracy with each of the measures, over all merges: Pearson's
      and Spearman's, with 95 % confidence intervals.

    Raises:
      ConfigError: no such suite or method.
    """
    tasks = own_suite(suite)
    check_methods(names)
    test = exam(tasks, weights, jax.random.key(seed), size)
    base, experts = weights.base(), [weights.expert(task) for task in tasks]
    individual = own_accuracies(experts, test)
    merges = []
    for name in names:
        for hyper in _around({**tune.defaults(name), **(settings or {}).get(name, {})}):
            method = getattr(methods, name)(**hyper)
            merged = engine.merge(base, experts, method, key=jax.random.key(seed))
            found = accuracies(merged, test)
            merges.append(
                {
                    "method": name,
                    "hyper": hyper,
                    "accuracy": float(found.mean()),
                    "normalised": float((found / individual).mean()),
                    "energy": frame_energy(base, experts, merged),
                    **_class_geometry(merged, test),
                }
            )
        report(f"{name}: {len(merges)} merges so far")
    return {"suite": suite, "merges": merges, "correlations": correlations(merges)}


def _around(hyper: tune.Hyper) -> list[tune.Hyper]:
    """The setting, with multiples of its scale if it has one."""
    if "scale" not in hyper:
        return [hyper]
    return [{**hyper, "scale": hyper["scale"] * m} for m in MULTIPLES]


def _class_geometry(params: dict, test: Exam) -> dict[str, float]:
    """Means over tasks of what the merged model's class means look like."""
    found = []
    for pictures, labels, padded in zip(*test, strict=True):
        head = padded[: labels.max() + 1]
        found.append(_geometry(features_of(params, pictures), labels, head))
    means = np.mean(np.asarray(found, np.float64), 0).tolist()
    return dict(zip(MEASURES[:3], means, strict=True))


@jax.jit
def _geometry(
    features: Float[Array, "n d"], labels: Int[Array, " n"], head: Float[Array, "c d"]
) -> Float[Array, " 3"]:
    means = class_means(features, labels, len(head))
    targets = aligned_targets(head)
    directions = centred_directions(means)
    turned = directions @ align(means, targets).rotation
    deviation = etf_deviation(directions)
    angles = (_degrees(x, targets) for x in (directions, turned))
    return jnp.stack([deviation, *angles])


def _degrees(x: Float[Array, "c d"], y: Float[Array, "c d"]) -> Float[Array, ""]:
    """Mean angle between unit rows that belong together."""
    return jnp.degrees(jnp.arccos(jnp.clip((x * y).sum(1), -1, 1))).mean()


def frame_energy(base: Any, experts: Sequence[Any], merged: Any) -> float:
    """Share of a merged delta inside the simplex frame of the experts' directions.

    Args:
      base: parameters.
      experts: k trees like `base`.
      merged: a tree like `base`.

    Returns:
      A number in [0, 1], over all linear maps: squared norm of the delta's projection
      on the span of the nearest simplex frame to the experts' leading left directions,
      over that of the delta.
    """
    inside, whole = (
        engine.merge(base, [*experts, merged], where(is_matrix, rule, stage(_nothing)))
        for rule in (stage(_inside), stage(_last))
    )
    return float(_squares(inside, base) / _squares(whole, base))


def _inside(d: Float[Array, "k m n"]) -> Float[Array, "1 m n"]:
    """The last delta, projected on the frame of the others."""
    rank = max(1, p.rank_of_each(d[:-1]) // FEW)
    directions = p.leading_subspaces(d[:-1], rank).left
    return p.on_frame_span(directions, d[-1])[None]


def _last(d: Float[Array, " k *d"]) -> Float[Array, " 1 *d"]:
    return d[-1:]


def _nothing(d: Float[Array, " k *d"]) -> Float[Array, " 1 *d"]:
    return jnp.zeros_like(d[:1])


def _squares(x: Any, base: Any) -> jax.Array:
    parts = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), x, base)
    return jnp.stack(jax.tree.leaves(parts)).sum()


def correlations(merges: Sequence[Mapping[str, Any]]) -> Scores:
    """Of accuracy with every measure: Pearson's and Spearman's, with intervals."""
    accuracy = [merge["accuracy"] for merge in merges]
    return {
        name: _correlation(accuracy, [merge[name] for merge in merges])
        for name in MEASURES
    }


def _correlation(x: Sequence[float], y: Sequence[float]) -> Scores:
    ranks = (scipy.stats.rankdata(each) for each in (x, y))
    return {"pearson": _pearson(np.array(x), np.array(y)), "spearman": _pearson(*ranks)}


def _pearson(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Scores:
    """With Fisher's interval at 95 %."""
    found = scipy.stats.pearsonr(x, y)
    low, high = found.confidence_interval(0.95)
    return {"value": float(found.statistic), "low": float(low), "high": float(high)}
