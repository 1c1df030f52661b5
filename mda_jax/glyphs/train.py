"""Make the base and the experts: brief pretraining, long fine-tuning, frozen heads."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
from jaxtyping import Array, Float, Int, Key, UInt8

from mda_jax.glyphs import images, model, scripts


class Recipe(NamedTuple):
    """How long and how fast to train with AdamW on a warm-up and cosine schedule."""

    steps: int
    rate: float  # peak learning rate
    batch: int = 128
    weight_decay: float = 0.01


PRETRAINING = Recipe(steps=700, rate=2e-3)
FINE_TUNING = Recipe(steps=1400, rate=2e-3, batch=64)
SEED = 2512
_CHUNK = 25  # steps in one compiled call
_SAVE_EVERY = 10  # chunks
_VIEWS = 64  # pictures of each class behind its head row

Pictures = UInt8[Array, "classes fonts 48 48"]
Watch = Callable[[int, int], None]
State = tuple[Any, Any]  # what is trained, and the state of its optimiser


def pretrain(folder: Path, watch: Watch, recipe: Recipe = PRETRAINING) -> dict:
    """The base: the encoder after classifying the pretraining scripts for a while.

    Args:
      folder: where to keep the state, so that a second call goes on from there.
      watch: called with the steps done and the steps in all.
      recipe: length and speed.

    Returns:
      Parameters as a nested dict, rounded to bfloat16 as they are shipped.
    """
    pictures = _pictures("pretraining")
    start_key, head_key, data_key = jax.random.split(jax.random.key(SEED), 3)
    head = 0.02 * jax.random.normal(head_key, (len(pictures), model.WIDTH))
    moving = (model.initial(start_key), head)
    trained = _train(
        _pretraining_loss, moving, None, pictures, data_key, recipe, folder, watch
    )
    return rounded(trained[0])


def fine_tune(
    task: str,
    base: dict,
    head: Float[Array, "classes 128"],
    folder: Path,
    watch: Watch,
    recipe: Recipe = FINE_TUNING,
) -> dict:
    """The expert of one task: the whole encoder trained against a frozen head.

    Args:
      task: a name of `scripts.TASKS` or `scripts.UNSEEN`.
      base: parameters to start from.
      head: unit rows, one for each class; see `class_mean_head`.
      folder: as in `pretrain`.
      watch: as in `pretrain`.
      recipe: as in `pretrain`.

    Returns:
      Parameters as a nested dict, rounded to bfloat16 as they are shipped.
    """
    key = task_key(task, 0)
    pictures = _pictures(task)
    trained = _train(task_loss, base, head, pictures, key, recipe, folder, watch)
    return rounded(trained)


def class_mean_head(task: str, base: dict) -> Float[Array, "classes 128"]:
    """Unit class means of the base's features: the analogue of a frozen text head."""
    pictures = _pictures(task)
    labels = jnp.arange(len(pictures))
    keys = jax.random.split(task_key(task, 1), _VIEWS)
    means = jnp.stack([_features(base, pictures, labels, key) for key in keys]).mean(0)
    return means / jnp.linalg.norm(means, axis=1, keepdims=True)


def rounded(params: dict) -> dict:
    """The float32 numbers that bfloat16 can hold nearest to `params`."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)


def _pictures(task: str) -> Pictures:
    return jnp.asarray(images.masters(scripts.alphabet(task)))


def task_key(task: str, purpose: int) -> Key[Array, ""]:
    """What decides a task's draws: 0 for its expert, 1 for its head, 2 for replicas."""
    key = jax.random.fold_in(jax.random.key(SEED), scripts.EVERY.index(task))
    return jax.random.fold_in(key, purpose)


@jax.jit
def _features(params, pictures, labels, key):
    return model.features(params, images.draw(key, pictures, labels))


def _pretraining_loss(moving, fixed, drawn, labels):
    params, head = moving
    return _cross_entropy(model.features(params, drawn) @ head.T, labels)


def task_loss(
    moving: dict,
    fixed: Float[Array, "classes 128"],
    drawn: Float[Array, "n 28 28"],
    labels: Int[Array, " n"],
) -> Float[Array, ""]:
    """Cross-entropy of an encoder against a frozen head."""
    return _cross_entropy(model.logits(moving, fixed, drawn), labels)


def _cross_entropy(scores, labels):
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()


@cache
def adamw(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW on the schedule of a recipe."""
    warmup = min(100, recipe.steps // 10)
    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.rate, warmup, recipe.steps)
    return optax.adamw(rate, weight_decay=recipe.weight_decay)


def _train(loss, moving, fixed, pictures, key, recipe, folder, watch):
    """Run `recipe`, resuming from and saving to `folder`."""
    state = (moving, adamw(recipe).init(moving))
    options = ocp.CheckpointManagerOptions(max_to_keep=1)
    with ocp.CheckpointManager(Path(folder).absolute(), options=options) as saved:
        done = saved.latest_step() or 0
        if done:
            state = saved.restore(done, args=ocp.args.StandardRestore(state))
        run = partial(_chunk, loss=loss, recipe=recipe)
        for start in range(done, recipe.steps, _CHUNK):
            state = run(state, fixed, pictures, key, jnp.int32(start))
            jax.block_until_ready(state)
            end = start + _CHUNK
            watch(min(end, recipe.steps), recipe.steps)
            if end % (_CHUNK * _SAVE_EVERY) == 0 or end >= recipe.steps:
                saved.save(end, args=ocp.args.StandardSave(state))
    return state[0]


@partial(jax.jit, static_argnames=("loss", "recipe"))
def _chunk(state, fixed, pictures, key, start, *, loss, recipe):
    """`_CHUNK` steps."""
    one = partial(step, loss=loss, optimiser=adamw(recipe), batch=recipe.batch)

    def each(state, i):
        return one(state, fixed, pictures, len(pictures), key, i), None

    return jax.lax.scan(each, state, start + jnp.arange(_CHUNK))[0]


def step(
    state: State,
    fixed: Any,
    pictures: Pictures,
    classes: int | Int[Array, ""],
    key: Key[Array, ""],
    i: Int[Array, ""],
    *,
    loss: Callable[..., Float[Array, ""]],
    optimiser: optax.GradientTransformation,
    batch: int,
) -> State:
    """One step of training.

    Args:
      state: what is trained, and the state of its optimiser.
      fixed: what the loss needs that is not trained, such as a head.
      pictures: masters of the characters.
      classes: how many of them are drawn from, the first ones.
      key: with `i` it decides the batch.
      i: number of the step.
      loss: `(trained, fixed, drawn pictures, labels) -> scalar`.
      optimiser: of what is trained.
      batch: number of pictures.
    """
    moving, memory = state
    label_key, draw_key = jax.random.split(jax.random.fold_in(key, i))
    labels = jax.random.randint(label_key, (batch,), 0, classes)
    drawn = images.draw(draw_key, pictures, labels)
    gradient = jax.grad(loss)(moving, fixed, drawn, labels)
    updates, memory = optimiser.update(gradient, memory, moving)
    return optax.apply_updates(moving, updates), memory
