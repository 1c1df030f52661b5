"""Merging in the training loop of the benchmark."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

from mda_jax.cli import app
from mda_jax.glyphs import images, loop, model, scripts, train
from mda_jax.glyphs.store import SHIPPED, Weights


TINY = train.Recipe(steps=4, rate=0.3, batch=4)
TASKS = ("arabic", "latin_1")  # 33 classes each, padded to 36


class Linear(Weights):
    """The shipped heads behind one linear map: little to compile."""

    def base(self):
        key = jax.random.key(0)
        return {"kernel": jax.random.normal(key, (images.SIDE**2, model.WIDTH))}


LINEAR = Linear(SHIPPED.folder)


@pytest.fixture(autouse=True)
def linear(monkeypatch):
    def features(params, drawn):
        return drawn.reshape(len(drawn), -1) @ params["kernel"]

    monkeypatch.setattr(model, "features", features)
    with jax.numpy_dtype_promotion("standard"):  # optax's schedules want it
        yield


def trained(every):
    """Replicas of two tasks after the recipe, in the two parts that `loop` compiles."""
    given, adam = loop.lessons(TASKS, LINEAR), train.adamw(TINY)
    run = loop.begin("linear", LINEAR.base(), given, adam)
    how = {"name": "linear", "optimiser": adam, "batch": TINY.batch, "count": 2}
    for start in (0, 2):
        run = loop.advanced(run, given, jnp.int32(every), jnp.int32(start), **how)
    return run


def alone(task, key):
    """What `train` makes of one task, neither its head nor its pictures padded."""
    head = jnp.asarray(LINEAR.head(task))
    pictures = jnp.asarray(images.masters(scripts.alphabet(task)))
    start = LINEAR.base(), train.adamw(TINY).init(LINEAR.base())
    how = {"loss": train.task_loss, "recipe": TINY}
    return train._chunk(start, head, pictures, key, jnp.int32(0), **how)[0]["kernel"]


def off(got, want):
    """How far two kernels are apart, over how far one is from the base."""
    moved = np.linalg.norm(want - LINEAR.base()["kernel"])
    return np.linalg.norm(got - want) / moved


def test_replicas_learn_as_each_would_alone_and_merge_once_as_experts(monkeypatch):
    monkeypatch.setattr(train, "_CHUNK", TINY.steps)
    keys = loop.lessons(TASKS, LINEAR).keys
    experts = [alone(*each) for each in zip(TASKS, keys, strict=True)]
    apart, merged = trained(every=TINY.steps + 1), trained(every=TINY.steps)
    mean = np.mean(experts, 0)
    np.testing.assert_array_equal(
        merged.merging.anchor["kernel"], merged.replicas["kernel"][0]
    )
    for i, expert in enumerate(experts):
        # AdamW makes a step of a gradient's rounding, where it is all there is.
        assert off(apart.replicas["kernel"][i], expert) < 1e-2
        assert off(merged.replicas["kernel"][i], mean) < 1e-2
        assert off(expert, mean) > 0.1


def test_joint_training_takes_the_mean_gradient():
    gradients, params = jnp.array([[1.0, -2.0], [3.0, 6.0]]), jnp.array([0.5, -0.5])
    joint, one = loop.together(TINY), train.adamw(TINY)
    got, _ = jax.vmap(joint.update, (0, None, None), axis_name="replica")(
        gradients, joint.init(params), params
    )
    want, _ = one.update(jnp.array([2.0, 2.0]), one.init(params), params)
    np.testing.assert_allclose(got, jnp.stack([want, want]), rtol=1e-6)


def test_every_run_has_an_accuracy_at_every_point():
    lines = []
    small = {"tasks": TASKS, "recipe": TINY, "points": 2, "test_size": 50}
    found = loop.loop(
        *(["linear", "diloco"], [1, 2]),
        **{"seeds": 2, "weights": LINEAR, "report": lines.append, **small},
    )
    assert json.loads(json.dumps(found)) == found
    assert found["steps"] == [2, 4] and found["tasks"] == list(TASKS)
    assert found["recipe"]["steps"] == 4
    assert found["once"].keys() == {"linear"}
    assert found["once"]["linear"]["scale"] == [None, None]
    assert np.shape(found["pretrained"]) == (2,)
    merged = [found["merged"][name] for name in ("linear", "diloco")]
    assert all(each.keys() == {"1", "2"} for each in merged)
    curves = [curve for each in merged for curve in each.values()]
    curves += [found["once"]["linear"]["accuracy"], found["experts"], found["joint"]]
    assert all(np.shape(curve) == (2, 2) for curve in curves)
    assert len(lines) == 2 * len(curves)
    assert len({str(curve) for curve in curves}) == len(curves)  # no two runs are one


@pytest.mark.parametrize(
    "given, text",
    [
        (("--methods", "linear,foo"), "no method 'foo'"),
        (("--tasks", "klingon"), "no task 'klingon'"),
        (("--every", "7"), "merging every 7 steps misses the scores at every 100"),
        (("--every", "0"), "merging every 0 steps misses"),
        (("--every", "ten"), "--every is 'ten'; give whole numbers"),
        (("--steps", "401"), "401 steps cannot be scored"),
    ],
)
def test_wrong_arguments_are_usage_errors(given, text):
    result = CliRunner().invoke(app, ["glyphs", "loop", *given])
    assert result.exit_code == 2 and text in result.stderr
    assert result.stderr.count("\n") == 1
