"""Merge the experts with every method and score the result on fresh pictures."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mda_jax import engine, methods
from mda_jax.glyphs import images, model, scripts, tune
from mda_jax.glyphs.store import SHIPPED, Weights
from mda_jax.glyphs.tune import Hyper
from mda_jax.pipeline.errors import ConfigError


_BLOCK = 50  # pictures in one compiled call
Scores = dict[str, Any]


class Exam(NamedTuple):
    """Fresh pictures of several tasks; heads padded to one number of classes."""

    pictures: Float[np.ndarray, "tasks n 28 28"]
    labels: Int[np.ndarray, "tasks n"]
    heads: Float[np.ndarray, "tasks classes 128"]


def exam(tasks: Sequence[str], weights: Weights, key, size: int) -> Exam:
    """Draw `size` pictures of every task, its classes about equally often.

    Args:
      tasks: names of `scripts.TASKS` or `scripts.UNSEEN`.
      weights: where the heads come from.
      key: decides the pictures; a task's are the same in whatever company it stands.
      size: pictures for each task, at least 1.
    """
    parts = [_one_exam(task, weights, key, size) for task in tasks]
    return Exam(*(np.stack(x) for x in zip(*parts, strict=True)))


def _one_exam(task, weights, key, size):
    masters = jnp.asarray(padded(images.masters(scripts.alphabet(task))))
    labels = np.arange(size, dtype=np.int32) * len(scripts.alphabet(task)) // size
    rows = np.pad(labels, (0, -size % _BLOCK)).reshape(-1, _BLOCK)
    keys = jax.random.split(
        jax.random.fold_in(key, scripts.EVERY.index(task)), len(rows)
    )
    drawn = [images.draw(k, masters, row) for k, row in zip(keys, rows, strict=True)]
    return np.concatenate(drawn)[:size], labels, padded(weights.head(task))


def padded(rows: np.ndarray) -> np.ndarray:
    """Rows of zeros up to the largest number of classes."""
    missing = max(len(scripts.alphabet(task)) for task in scripts.EVERY) - len(rows)
    return np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))


def accuracies(params: dict, test: Exam) -> Float[np.ndarray, " tasks"]:
    """Fraction of each task's pictures that one model classifies rightly."""
    return own_accuracies([params] * len(test.labels), test)


def own_accuracies(models: Sequence[dict], test: Exam) -> Float[np.ndarray, " tasks"]:
    """The same, where every task has its own model."""
    return np.array([_accuracy(*each) for each in zip(models, *test, strict=True)])


def _accuracy(params, pictures, labels, head) -> float:
    answers = _by_block(partial(_answers, params, head=head), pictures)
    return float(np.mean(answers == labels))


def features_of(
    params: dict, pictures: Float[np.ndarray, "n 28 28"]
) -> Float[np.ndarray, "n 128"]:
    """Features of many pictures."""
    return _by_block(partial(_features, params), pictures)


def _by_block(f, pictures) -> np.ndarray:
    """Block by block, so that one compilation serves every number of pictures."""
    padded = np.pad(pictures, [(0, -len(pictures) % _BLOCK), (0, 0), (0, 0)])
    found = [f(padded[i : i + _BLOCK]) for i in range(0, len(pictures), _BLOCK)]
    return np.concatenate(found)[: len(pictures)]


_features = jax.jit(model.features)


@jax.jit
def _answers(params, pictures, head) -> Int[Array, " n"]:
    return model.logits(params, head, pictures).argmax(-1)


def score(
    suite: str,
    names: Sequence[str],
    *,
    seed: int = 0,
    draws: int = 1,
    weights: Weights = SHIPPED,
    test_size: int = 500,
    validation_size: int = 400,
    rounds: Callable[[str], list[tune.Round]] = tune.every_number,
    settings: Mapping[str, Hyper] | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Scores:
    """Score the pretrained encoder, the experts and every method's merge on a suite.

    Hyper-parameters are picked by the mean accuracy on validation pictures of the
    merged tasks, drawn apart from the test pictures. The suite `unseen` merges the
    experts of all 20 tasks and is tested on tasks that none of them was trained for.

    Args:
      suite: `8`, `14`, `20` or `unseen`.
      names: names of `mda_jax.methods`.
      seed: decides all draws.
      draws: how often to draw test pictures, at least 1.
      weights: the trained parameters.
      test_size: test pictures for each task.
      validation_size: validation pictures for each task.
      rounds: which numbers of a method to tune; see `tune`.
      settings: numbers of methods that need no tuning, by name.
      report: called with a line of text now and then.

    Returns:
      `suite`, `tasks`, `individual` and `pretrained` (accuracy of each task), and for
      each method `absolute` (mean accuracy), `normalised` (mean of accuracy over the
      expert's), `per_task`, `draws` (mean accuracy in each test draw), `seconds` of
      one merge after compilation, and `hyper`. All but `draws` are means over draws.

    Raises:
      ConfigError: no such suite or method.
    """
    tasks, merged_tasks = _tasks(suite)
    check_methods(names)
    test_key, validation_key = jax.random.split(jax.random.key(seed))
    # The first draw is the one that a single draw would be.
    keys = [test_key, *jax.random.split(jax.random.fold_in(test_key, 0), draws - 1)]
    tests = [exam(tasks, weights, key, test_size) for key in keys]
    validation = exam(merged_tasks, weights, validation_key, validation_size)
    base, experts = weights.base(), [weights.expert(task) for task in merged_tasks]
    own = [weights.expert(task) for task in tasks]
    individual = np.mean([own_accuracies(own, test) for test in tests], 0)

    def tuned(name: str) -> Hyper:
        if settings and name in settings:
            return settings[name]

        def worth(hyper: Hyper) -> float:
            merged = _merged(name, base, experts, hyper)[0]
            return float(accuracies(merged, validation).mean())

        return tune.tuned(name, rounds(name), worth, report)

    def scored(name: str) -> Scores:
        hyper = tuned(name)
        merged, seconds = _merged(name, base, experts, hyper)
        found = np.array([accuracies(merged, test) for test in tests])
        report(f"{name}: {found.mean():.3f} with {hyper}")
        return {
            "absolute": float(found.mean()),
            "normalised": float((found.mean(0) / individual).mean()),
            "per_task": _by_task(tasks, found.mean(0)),
            "draws": found.mean(1).tolist(),
            "seconds": seconds,
            "hyper": hyper,
        }

    pretrained = np.mean([accuracies(base, test) for test in tests], 0)
    return {
        "suite": suite,
        "tasks": list(tasks),
        "individual": _by_task(tasks, individual),
        "pretrained": _by_task(tasks, pretrained),
        "methods": {name: scored(name) for name in names},
    }


def _tasks(suite: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tasks to test on, and tasks whose experts are merged."""
    if suite not in scripts.SUITES:
        raise ConfigError(
            f"glyphs: no suite {suite!r}; there are: {', '.join(scripts.SUITES)}."
        )
    tested = scripts.SUITES[suite]
    return tested, scripts.SUITES["20"] if suite == "unseen" else tested


def own_suite(suite: str) -> tuple[str, ...]:
    """The tasks of a suite that is tested on the tasks whose experts are merged.

    Raises:
      ConfigError: no such suite.
    """
    tested, merged = _tasks(suite)
    if tested != merged:
        raise ConfigError(
            f"glyphs: the suite {suite!r} has no experts to merge; use 8, 14 or 20."
        )
    return tested


def methods_named(text: str) -> tuple[str, ...]:
    """The methods that names with commas stand for, or all that merge any number."""
    every = tuple(n for n in methods.names if methods.experts_of(n) is None)
    return every if text == "all" else tuple(text.split(","))


def check_methods(names: Sequence[str]) -> None:
    """Raise `ConfigError` unless all are names of methods for any number of experts."""
    known = methods_named("all")
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(
            f"glyphs: no method {unknown[0]!r} for many experts; there are:"
            f" {', '.join(known)}."
        )


def _merged(name, base, experts, hyper: Hyper) -> tuple[dict, float]:
    """A merge and its seconds."""
    start = time.perf_counter()
    method = getattr(methods, name)(**hyper)
    key = jax.random.key(0)
    merged = jax.block_until_ready(engine.merge(base, experts, method, key=key))
    return merged, time.perf_counter() - start


def _by_task(tasks, values) -> dict[str, float]:
    return {task: float(x) for task, x in zip(tasks, values, strict=True)}
