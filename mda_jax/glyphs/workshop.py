"""What has to be trained, in which order, and where it goes."""

import shutil
from collections.abc import Callable, Iterable

import jax.numpy as jnp

from mda_jax.glyphs import scripts, train
from mda_jax.glyphs.store import SHIPPED, Weights
from mda_jax.pipeline.errors import ConfigError


EVERYTHING = ("base", *scripts.EVERY)


def wanted(names: Iterable[str]) -> tuple[str, ...]:
    """Names in training order; none means all.

    Raises:
      ConfigError: a name is neither `base` nor a task.
    """
    names = set(names) or set(EVERYTHING)
    if unknown := sorted(names - set(EVERYTHING)):
        raise ConfigError(
            f"glyphs train: nothing called {unknown[0]!r}; there are:"
            f" {', '.join(EVERYTHING)}."
        )
    return tuple(name for name in EVERYTHING if name in names)


def make(name: str, weights: Weights, watch: Callable[[int, int], None]) -> None:
    """Train the base (with the heads of all tasks) or one expert, and save it.

    The state of the training is kept beside the weights until it is done, so that an
    interrupted one goes on where it was.

    Args:
      name: `base` or a task. An expert starts from the base in `weights`, or from
        the shipped one where there is none.
      weights: where everything is read and written.
      watch: called with the steps done and the steps in all.
    """
    state = weights.folder / f".training-{name}"
    made = {"command": f"mda-jax glyphs train {name}", "seed": str(train.SEED)}
    if name == "base":
        base = train.pretrain(state, watch)
        heads = {task: train.class_mean_head(task, base) for task in scripts.EVERY}
        weights.save_heads(heads, made)
        weights.save("base", base, made)
    else:
        start = weights if weights.has("base") else SHIPPED
        base, head = start.base(), jnp.asarray(start.head(name))
        expert = train.fine_tune(name, base, head, state, watch)
        weights.save(name, expert, made)
    shutil.rmtree(state)
