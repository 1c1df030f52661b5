"""Adaptive merging on the benchmark: AdaMerging, MDA-AM and what its parts do."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mda_jax import adaptive, engine, features, linalg, methods
from mda_jax.glyphs import model, tune
from mda_jax.glyphs.score import (
    Exam,
    Scores,
    accuracies,
    exam,
    features_of,
    own_suite,
)
from mda_jax.glyphs.store import SHIPPED, Weights


RATES = (1e-3, 5e-3)  # of Adam; the better one on validation pictures counts
BATCH = 16  # pictures of each task in a step
BASES = ("task_arithmetic", "tsv", "iso_c", "mda")  # merges whose blocks are weighted
Adapt = Callable[..., adaptive.Descent]


class Task(NamedTuple):
    """What a merge knows of a task.

    Attributes:
      head: unit rows, one for each class.
      expert: parameters.
      targets: the simplex frame that features are to meet, aligned to the head.
      answer: `(parameters, pictures) -> (features, logits)`.
      score: the logits alone.
    """

    head: Any
    expert: Any
    targets: Any
    answer: Callable[[Any, Any], tuple[jax.Array, jax.Array]]
    score: Callable[[Any, Any], jax.Array]

    @classmethod
    def of(cls, name: str, weights: Weights) -> "Task":
        """The task of a name."""
        head = jnp.asarray(weights.head(name))

        def answer(params: Any, x: Any) -> tuple[jax.Array, jax.Array]:
            return model.features(params, x), model.logits(params, head, x)

        def score(params: Any, x: Any) -> jax.Array:
            return model.logits(params, head, x)

        targets = features.aligned_targets(head)
        return cls(head, weights.expert(name), targets, answer, score)


def adapt(
    *,
    suite: str = "8",
    settings: Mapping[str, tune.Hyper] | None = None,
    seed: int = 0,
    draws: int = 5,
    steps: int = 100,
    weights: Weights = SHIPPED,
    test_size: int = 500,
    validation_size: int = 200,
    report: Callable[[str], None] = lambda line: None,
) -> Scores:
    """Learn coefficients in several ways, and align features in closed form.

    Args:
      suite: `8`, `14` or `20`.
      settings: numbers of the methods in `BASES`; default the method's.
      seed: decides the pictures.
      draws: how often to draw test pictures, and unlabelled ones to learn from; at
        least 1.
      steps: of each descent.
      weights: the trained parameters.
      test_size: test pictures for each task.
      validation_size: validation pictures for each task; they pick the rate, in the
        first draw.
      report: called with a line of text now and then.

    Returns:
      `learned`: for each kind of deltas and loss the mean accuracy, that of each draw,
      the accuracy `before` of each draw, the rate and the `seconds` of a step after the
      first.
      `aligned`: for each merge and head the mean accuracy and that of each draw.

    Raises:
      ConfigError: no such suite.
    """
    names = own_suite(suite)
    keys = jax.random.split(jax.random.key(seed), 3)
    tests = [
        exam(names, weights, key, test_size) for key in jax.random.split(keys[0], draws)
    ]
    validation = exam(names, weights, keys[1], validation_size)
    unlabelled = [
        exam(names, weights, key, steps * BATCH).pictures
        for key in jax.random.split(keys[2], draws)
    ]
    shuffled = np.random.default_rng(seed).permutation(steps * BATCH)
    streams = [
        [pool[:, rows] for rows in shuffled.reshape(steps, BATCH)]
        for pool in unlabelled
    ]
    base = weights.base()
    tasks = [Task.of(name, weights) for name in names]
    experts = [task.expert for task in tasks]
    learned, aligned = [], []
    for name in BASES:
        method = getattr(methods, name)(**(settings or {}).get(name, {}))
        parts = adaptive.blocks(base, experts, method)
        merged = engine.merge(base, experts, method)
        before = _scored(partial(accuracies, merged), tests)
        report(f"{name}: {before['absolute']:.3f}")
        aligned.append({"method": name, "head": "as it is", **before})
        heads = [_heads(merged, tasks, validation, pool) for pool in unlabelled]
        for head in heads[0]:
            each = zip((draw[head] for draw in heads), tests, strict=True)
            found = _mean([_aligned_accuracies(merged, *pair) for pair in each])
            aligned.append({"method": name, "head": head, **found})
            report(f"{name}, {head}: {found['absolute']:.3f}")
        for loss, run in _losses(base, parts, tasks, every=name == "mda").items():
            found = _at_best_rate(run, streams, validation, tests)
            learned.append(
                {"deltas": name, "loss": loss, "before": before["draws"], **found}
            )
            report(f"{name}, {loss}: {found['absolute']:.3f} at {found['rate']}")
    return {"suite": suite, "steps": steps, "learned": learned, "aligned": aligned}


def _losses(
    base: Any, parts: Sequence[Any], tasks: Sequence[Task], *, every: bool
) -> dict[str, Adapt]:
    """The descents to compare; the ablations only where all are asked for."""
    k, width = len(tasks), tasks[0].head.shape[1]
    layer_wise = adaptive.layer_wise(base, k, 1.0)
    answers = [task.answer for task in tasks]
    scores = [task.score for task in tasks]
    targets = [task.targets for task in tasks]
    plain = partial(adaptive.adamerging, base, parts, scores, start=layer_wise)
    aligned = partial(adaptive.mda_am, base, parts, answers, targets, start=layer_wise)
    taught = partial(aligned, teachers=[task.expert for task in tasks])
    chosen: dict[str, Adapt] = {
        "entropy": plain,
        "entropy, task-wise": partial(plain, start=adaptive.task_wise(k, 1.0)),
        "entropy + 1 alignment": partial(aligned, alpha=1.0),
        "teachers": partial(taught, alpha=0.0),
    }
    if every:
        keys = jax.random.split(jax.random.key(0), k)
        anywhere = [
            features.random_targets(key, len(task.head), width)
            for key, task in zip(keys, tasks, strict=True)
        ]
        learned = partial(aligned, alpha=1.0, chart=linalg.cayley_rotation)
        chosen |= {
            "entropy + 0.3 alignment": partial(aligned, alpha=0.3),
            "entropy + 4 alignment": partial(aligned, alpha=4.0),
            "teachers + 1 alignment": partial(taught, alpha=1.0),
            "learned rotations, beta 1": partial(learned, beta=1.0),
            "learned rotations, beta 0": partial(learned, beta=0.0),
            "random frames": partial(
                adaptive.mda_am, base, parts, answers, anywhere, start=layer_wise
            ),
        }
    return chosen


def _at_best_rate(
    run: Adapt,
    streams: Sequence[Sequence[Any]],
    validation: Exam,
    tests: Sequence[Exam],
) -> Scores:
    """A descent for each draw, at the rate that validation pictures prefer."""

    def after(rate: float, batches: Sequence[Any]) -> tuple[Any, float]:
        times: list[float] = []
        watch = _clock(times)
        descent = run(batches=batches, optimiser=_ADAM[rate], watch=watch)
        return descent.params, float(np.median(np.diff(times)))

    first = {rate: after(rate, streams[0]) for rate in RATES}
    rate = max(RATES, key=lambda each: accuracies(first[each][0], validation).mean())
    descents = [first[rate], *(after(rate, stream) for stream in streams[1:])]
    scores = [
        accuracies(params, test)
        for (params, _), test in zip(descents, tests, strict=True)
    ]
    return {**_mean(scores), "rate": rate, "seconds": first[rate][1]}


_ADAM = {rate: optax.adam(rate) for rate in RATES}


def _clock(times: list[float]) -> Callable[[int, float], None]:
    return lambda step, loss: times.append(time.perf_counter())


def _scored(f: Callable[[Exam], np.ndarray], tests: Sequence[Exam]) -> Scores:
    return _mean([f(test) for test in tests])


def _mean(accuracies: Sequence[np.ndarray]) -> Scores:
    each = [float(draw.mean()) for draw in accuracies]
    return {"absolute": float(np.mean(each)), "draws": each}


def _heads(
    merged: dict, tasks: Sequence[Task], validation: Exam, seen: np.ndarray
) -> dict[str, list[features.Alignment]]:
    """Ways to align the merged features of every task, by what they need."""
    known = zip(validation.pictures, validation.labels, strict=True)
    each = [
        _alignments(merged, task, *labelled, pictures)
        for task, labelled, pictures in zip(tasks, known, seen, strict=True)
    ]
    return {name: [task[name] for task in each] for name in each[0]}


def _alignments(merged, task, known, labels, pictures) -> dict[str, features.Alignment]:
    """`experts' means` needs no data but what could come with an expert.

    The others see unlabelled pictures, labelled by the merged model or by the expert.
    """

    def answers(z):
        return (features.unit_rows(z) @ task.head.T).argmax(-1)

    own = jnp.asarray(features_of(merged, pictures))
    taught = jnp.asarray(features_of(task.expert, pictures))
    shipped = jnp.asarray(features_of(task.expert, known))
    labelled = {
        "experts' means": (shipped, jnp.asarray(labels)),
        "own labels": (own, answers(own)),
        "experts' labels": (own, answers(taught)),
    }
    return {
        name: features.align(features.class_means(*each, len(task.head)), task.targets)
        for name, each in labelled.items()
    }


def _aligned_accuracies(
    merged: dict, heads: Sequence[features.Alignment], test: Exam
) -> np.ndarray:
    found = []
    for alignment, pictures, labels in zip(
        heads, test.pictures, test.labels, strict=True
    ):
        z = features_of(merged, pictures)
        scores = z @ np.asarray(alignment.head).T + np.asarray(alignment.bias)
        found.append(np.mean(scores.argmax(-1) == labels))
    return np.array(found)
