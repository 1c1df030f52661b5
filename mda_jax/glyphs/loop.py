"""Merging inside the training loop: replicas of the base, one script each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, UInt8

from mda_jax import engine, methods, training
from mda_jax.glyphs import images, scripts, train, tune
from mda_jax.glyphs.score import (
    Exam,
    Scores,
    accuracies,
    check_methods,
    exam,
    own_accuracies,
    padded,
)
from mda_jax.glyphs.store import SHIPPED, Weights
from mda_jax.pipeline.errors import ConfigError


TASKS = scripts.SUITES["8"][:4]
RECIPE = train.Recipe(steps=400, rate=2e-3, batch=8)
DILOCO = "diloco"  # linear, and an outer optimiser with the paper's numbers
_OUTER = optax.sgd(0.7, momentum=0.9, nesterov=True)
_REPLICA = "replica"


class Lessons(NamedTuple):
    """What replicas learn from, one script each; padded to one number of classes."""

    heads: Float[Array, "tasks classes 128"]
    masters: UInt8[Array, "tasks classes fonts 48 48"]
    classes: Int[Array, " tasks"]
    keys: Key[Array, " tasks"]


class Run(NamedTuple):
    """Replicas in training: a merger's state, and what each has on a first axis."""

    merging: Any
    replicas: dict
    memories: Any


def lessons(tasks: Sequence[str], weights: Weights = SHIPPED, seed: int = 0) -> Lessons:
    """The lessons of some tasks; `seed` decides which pictures are drawn."""
    alphabets = [scripts.alphabet(task) for task in tasks]
    keys = [jax.random.fold_in(train.task_key(task, 2), seed) for task in tasks]
    return Lessons(
        jnp.stack([padded(weights.head(task)) for task in tasks]),
        jnp.stack([padded(images.masters(each)) for each in alphabets]),
        jnp.array([len(each) for each in alphabets]),
        jnp.stack(keys),
    )


@cache
def together(recipe: train.Recipe) -> optax.GradientTransformation:
    """The recipe's optimiser on the mean gradient of all replicas: joint training."""
    mean = optax.stateless(lambda gradient, _: jax.lax.pmean(gradient, _REPLICA))
    return optax.chain(mean, train.adamw(recipe))


def merger(name: str, every: Any) -> training.Merger:
    """`DILOCO`, or a method with its default numbers, every so many steps."""
    if name == DILOCO:
        return training.merge_every(every, methods.linear(), outer=_OUTER)
    method = getattr(methods, name)()
    return training.merge_every(every, method, key=jax.random.key(0))


def begin(
    name: str, base: dict, given: Lessons, optimiser: optax.GradientTransformation
) -> Run:
    """A run before its first step: a copy of the base for each lesson."""
    replicas = training.replicate(base, len(given.classes))
    return Run(merger(name, 1).init(base), replicas, jax.vmap(optimiser.init)(replicas))


@partial(jax.jit, static_argnames=("name", "optimiser", "batch", "count"))
def advanced(
    run: Run,
    given: Lessons,
    every: Any,
    start: Any,
    *,
    name: str,
    optimiser: optax.GradientTransformation,
    batch: int,
    count: int,
) -> Run:
    """A run after some more steps.

    Args:
      run: where to go on.
      given: one lesson for each replica.
      every: steps from one merge to the next; it never compiles again.
      start: number of steps done.
      name: what merges; see `merger`.
      optimiser: of each replica.
      batch: pictures of each lesson in a step.
      count: number of steps to do.
    """
    merging = merger(name, every)
    learn = partial(train.step, loss=train.task_loss, optimiser=optimiser, batch=batch)
    learn_all = jax.vmap(learn, (0, 0, 0, 0, 0, None), axis_name=_REPLICA)

    def step(run: Run, i: Int[Array, ""]) -> tuple[Run, None]:
        learnt = learn_all((run.replicas, run.memories), *given, i)
        return Run(*merging.update(run.merging, *learnt)), None

    return jax.lax.scan(step, run, start + jnp.arange(count))[0]


def loop(
    names: Sequence[str],
    every: Sequence[int],
    *,
    tasks: Sequence[str] = TASKS,
    seeds: int = 3,
    recipe: train.Recipe = RECIPE,
    points: int = 4,
    weights: Weights = SHIPPED,
    test_size: int = 250,
    validation_size: int = 100,
    report: Callable[[str], None] = lambda line: None,
) -> Scores:
    """Train replicas of the base, merged within the loop or once at its end.

    Every replica sees one script and its frozen head. All runs of a seed see the same
    pictures, in steps of the same recipe; each replica keeps the state of its
    optimiser at a merge. The measure is the mean accuracy of the one merged model over
    all scripts.

    Args:
      names: what merges: names of `mda_jax.methods`, with their default numbers, or
        `DILOCO`.
      every: numbers of steps from one merge to the next.
      tasks: names of `scripts.TASKS` or `scripts.UNSEEN`, one replica each.
      seeds: how many runs with other pictures, at least 1.
      recipe: of each replica.
      points: how often to score a run, at equal distances.
      weights: the base and the heads.
      test_size: test pictures of each task, drawn anew for each seed.
      validation_size: pictures of each task that pick the scale of a merge at the end.
      report: called with a line of text now and then.

    Returns:
      `steps` of the points; accuracies `[seeds, points]`: `experts`, of the replicas
      that never merged, each on its own task; `joint`, of one model trained on the
      batches of all replicas in each step; under `once` and a name those of a merge of
      the unmerged replicas at every point, and the `scale` in each seed, the best on
      validation pictures at the end; under `merged`, a name and a number
      of steps those of merging in the loop. `pretrained` has one for each seed.

    Raises:
      ConfigError: no such method or task, or a merge would miss a score.
    """
    _check(names, every, recipe.steps, points)

    def study(seed: int) -> Study:
        test_key, validation_key = jax.random.split(jax.random.key(seed))
        return Study(
            weights.base(),
            lessons(tasks, weights, seed),
            exam(tasks, weights, test_key, test_size),
            exam(tasks, weights, validation_key, validation_size),
            recipe,
            points,
            lambda line: report(f"seed {seed}: {line}"),
        )

    found = [_studied(study(seed), names, every) for seed in range(seeds)]
    by_seed = jax.tree.map(lambda *x: list(x), *found, is_leaf=_is_found)
    steps = [recipe.steps // points * (i + 1) for i in range(points)]
    how = {"tasks": list(tasks), "recipe": recipe._asdict(), "steps": steps}
    return how | by_seed


class Study(NamedTuple):
    """One seed: where runs start, what they learn from, and what scores them."""

    base: dict
    given: Lessons
    test: Exam
    validation: Exam
    recipe: train.Recipe
    points: int
    report: Callable[[str], None]

    def runs(
        self, name: str, every: int, optimiser: optax.GradientTransformation
    ) -> Iterator[Run]:
        """A run at each of its points."""
        run = begin(name, self.base, self.given, optimiser)
        count, batch = self.recipe.steps // self.points, self.recipe.batch
        more = partial(
            advanced, name=name, optimiser=optimiser, batch=batch, count=count
        )
        for i in range(self.points):
            run = more(run, self.given, jnp.int32(every), jnp.int32(i * count))
            yield run

    def curve(
        self, title: str, models: Iterable[Any], accuracy: Callable[..., Any]
    ) -> list[float]:
        """The mean accuracy over tasks of each model."""
        values = [float(accuracy(each, self.test).mean()) for each in models]
        self.report(f"{title} {' '.join(f'{value:.3f}' for value in values)}")
        return values


def _studied(study: Study, names: Sequence[str], every: Sequence[int]) -> Scores:
    recipe = study.recipe
    adam, never = train.adamw(recipe), recipe.steps + 1
    alone = [run.replicas for run in study.runs("linear", never, adam)]
    joint = (run.replicas for run in study.runs("linear", never, together(recipe)))

    def merged(name: str, k: int) -> list[float]:
        models = (run.merging.anchor for run in study.runs(name, k, adam))
        return study.curve(f"{name} every {k}", models, accuracies)

    return {
        "pretrained": float(accuracies(study.base, study.test).mean()),
        "experts": study.curve("experts", map(_each, alone), own_accuracies),
        "joint": study.curve("joint", (_each(x)[0] for x in joint), accuracies),
        "once": {name: _once(study, name, alone) for name in names if name != DILOCO},
        "merged": {name: {str(k): merged(name, k) for k in every} for name in names},
    }


def _once(study: Study, name: str, alone: Sequence[dict]) -> Scores:
    """Merges of replicas that never merged, at the scale that is best at the end."""

    def merge(replicas: dict, hyper: tune.Hyper) -> dict:
        method, key = getattr(methods, name)(**hyper), jax.random.key(0)
        return engine.merge(study.base, replicas, method, key=key)

    def worth(hyper: tune.Hyper) -> float:
        return float(accuracies(merge(alone[-1], hyper), study.validation).mean())

    hyper = tune.tuned(name, tune.scale_only(name), worth)
    models = (merge(replicas, hyper) for replicas in alone)
    accuracy = study.curve(f"{name} once", models, accuracies)
    return {"accuracy": accuracy, "scale": hyper.get("scale")}


def _each(replicas: dict) -> list[dict]:
    """Replicas apart."""
    count = len(jax.tree.leaves(replicas)[0])
    return [jax.tree.map(lambda x, i=i: x[i], replicas) for i in range(count)]


def _is_found(value: Any) -> bool:
    return not isinstance(value, dict)


def _check(names: Sequence[str], every: Sequence[int], steps: int, points: int) -> None:
    check_methods([name for name in names if name != DILOCO])
    between = steps // points
    if between * points != steps:
        raise ConfigError(
            f"glyphs loop: {steps} steps cannot be scored at {points} equal distances;"
            f" give a multiple of {points}."
        )
    if missed := [k for k in every if k < 1 or between % k]:
        raise ConfigError(
            f"glyphs loop: merging every {missed[0]} steps misses the scores at every"
            f" {between}; give divisors of {between}."
        )
