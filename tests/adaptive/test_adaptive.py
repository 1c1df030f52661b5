"""AdaMerging and MDA-AM on a small classifier, against loops in float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mda_jax.adaptive import (
    adamerging,
    combined,
    layer_wise,
    mda_am,
    task_vectors,
    task_wise,
)
from mda_jax.features import ClassMeans, alignment_loss, entropy, random_targets
from mda_jax.linalg import (
    cayley_rotation,
    exp_rotation,
    low_rank_rotation,
    procrustes_rotation,
)


WIDTH, CLASSES, TASKS = 3, 4, 2  # frames fill the width: rotations are unique
SHAPES = {"first": (6, 8), "bias": (8,), "second": (8, WIDTH)}
DRAW = np.random.default_rng(0)


def tree():
    return {n: jnp.asarray(DRAW.normal(size=s), jnp.float32) for n, s in SHAPES.items()}


BASE = tree()
EXPERTS = [jax.tree.map(lambda x, y: x + 0.5 * y, BASE, tree()) for _ in range(TASKS)]
DELTAS = task_vectors(BASE, EXPERTS)
HEADS = [jnp.asarray(DRAW.normal(size=(CLASSES, WIDTH)), jnp.float32) for _ in EXPERTS]
TARGETS = [random_targets(jax.random.key(i), CLASSES, WIDTH) for i in range(TASKS)]


def features(params, x):
    hidden = jnp.tanh(x @ params["first"] + params["bias"][None])
    return hidden @ params["second"]


def with_features(head):
    def apply(params, x):
        z = features(params, x)
        return z, z @ head.T

    return apply


APPLY = [with_features(head) for head in HEADS]
LOGITS = [lambda params, x, f=f: f(params, x)[1] for f in APPLY]


def batches(steps, size=12):
    draw = np.random.default_rng(1)
    shape = (steps, TASKS, size, 6)
    return list(jnp.asarray(draw.normal(size=shape), jnp.float32))


def same(a, b, tolerance=0.0):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=tolerance), a, b
    )


@pytest.mark.parametrize("start", [task_wise(TASKS), layer_wise(BASE, TASKS)])
def test_combined_adds_scaled_deltas(start):
    got = combined(BASE, DELTAS, start)
    want = jax.tree.map(lambda b, x, y: b + 0.3 * x + 0.3 * y, BASE, *DELTAS)
    same(got, want, 1e-6)


def test_what_is_no_float_stays():
    base = {"w": jnp.ones(2, jnp.bfloat16), "step": jnp.int32(7)}
    deltas = task_vectors(base, [{"w": 2 * base["w"], "step": jnp.int32(9)}])
    got = combined(base, deltas, task_wise(1, 0.5))
    assert got["step"] == 7 and got["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(got["w"], np.full(2, 1.5))


def test_adamerging_is_adam_on_the_entropy():
    """Three steps by hand: gradients by differences, Adam as published."""

    def loss(c, batch):
        added = [{n: c[t] * np.float64(d[n]) for n in d} for t, d in enumerate(DELTAS)]
        params = {n: np.float64(BASE[n]) + sum(d[n] for d in added) for n in BASE}
        total = 0.0
        for head, x in zip(HEADS, np.float64(batch), strict=True):
            hidden = np.tanh(x @ params["first"] + params["bias"])
            scores = hidden @ params["second"] @ np.float64(head).T
            p = np.exp(scores - scores.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            total -= (p * np.log(p)).sum(1).mean()
        return total

    c, first, second = np.full(2, 0.3), np.zeros(2), np.zeros(2)
    for i, batch in enumerate(batches(3), 1):
        steps = 1e-5 * np.eye(2)
        slope = [(loss(c + h, batch) - loss(c - h, batch)) / 2e-5 for h in steps]
        first = 0.9 * first + 0.1 * np.array(slope)
        second = 0.999 * second + 0.001 * np.array(slope) ** 2
        size = np.sqrt(second / (1 - 0.999**i)) + 1e-8
        c = c - 1e-2 * first / (1 - 0.9**i) / size
    adam = optax.adam(1e-2)
    start = task_wise(TASKS)
    got = adamerging(BASE, DELTAS, LOGITS, batches(3), start=start, optimiser=adam)
    # float32 gradients, divided by their own size
    np.testing.assert_allclose(got.trained, c, rtol=0, atol=1e-5)
    same(got.params, combined(BASE, DELTAS, got.trained))


@pytest.mark.parametrize("chart", [None, exp_rotation, cayley_rotation])
def test_mda_am_without_its_losses_is_adamerging_step_by_step(chart):
    plain = adamerging(BASE, DELTAS, LOGITS, batches(6))
    weights = {"alpha": 0.0, "beta": 0.0, "chart": chart}
    aligned = mda_am(BASE, DELTAS, APPLY, TARGETS, batches(6), **weights)
    np.testing.assert_allclose(aligned.losses, plain.losses, rtol=1e-5)
    same(aligned.trained["coefficients"], plain.trained, 1e-5)


def test_the_first_loss_is_the_sum_of_its_parts():
    (batch,) = batches(1)
    got = mda_am(BASE, DELTAS, APPLY, TARGETS, [batch], alpha=0.7, keep=1.0)
    params = combined(BASE, DELTAS, task_wise(TASKS))
    want = 0.0
    for apply, target, x in zip(APPLY, TARGETS, batch, strict=True):
        z, logits = apply(params, x)
        labels = logits.argmax(-1)
        state = ClassMeans.empty(CLASSES, WIDTH).observe(z, labels)
        seen = np.unique(labels)
        centre = np.asarray(state.means)[seen].mean(0)
        centred = np.asarray(state.means)[seen] - centre
        unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
        q = procrustes_rotation(jnp.asarray(unit), target[seen])
        want += entropy(logits) + 0.7 * alignment_loss(
            z - centre[None], labels, q, target
        )
    assert got.losses[0] == pytest.approx(float(want), rel=1e-4)


def test_learned_rotations_approach_those_of_procrustes():
    options = {"alpha": 0.0, "beta": 1.0, "keep": 1.0, "chart": exp_rotation}
    data = batches(1) * 200
    adam = optax.adam(2e-2)
    found = mda_am(BASE, DELTAS, APPLY, TARGETS, data, optimiser=adam, **options)
    assert found.losses[-1] < 0.5 * found.losses[0]
    assert np.any(found.trained["rotations"] != 0)


def test_low_rank_rotations_are_learned_from_any_start():
    turns = jnp.asarray(DRAW.normal(size=(TASKS, 2, WIDTH, 1)), jnp.float32)
    turns = turns.at[:, 1].set(0)  # the identity
    options = {"beta": 1.0, "chart": low_rank_rotation, "turns": turns}
    adam = optax.adam(2e-2)
    data = batches(1) * 100
    found = mda_am(BASE, DELTAS, APPLY, TARGETS, data, optimiser=adam, **options)
    assert found.trained["rotations"].shape == turns.shape
    assert found.losses[-1] < found.losses[0]


def test_teachers_label_the_inputs():
    """With alpha 0 the loss is the cross-entropy to what each expert predicts."""
    (batch,) = batches(1)
    options = {"alpha": 0.0, "teachers": EXPERTS}
    got = mda_am(BASE, DELTAS, APPLY, TARGETS, [batch], **options)
    params = combined(BASE, DELTAS, task_wise(TASKS))
    want = 0.0
    for f, expert, x in zip(APPLY, EXPERTS, np.asarray(batch), strict=True):
        label = np.asarray(f(expert, x)[1]).argmax(-1)
        logs = np.asarray(jax.nn.log_softmax(f(params, x)[1]), np.float64)
        want -= logs[np.arange(len(label)), label].mean()
    assert got.losses[0] == pytest.approx(want, rel=1e-5)


def test_the_step_compiles_once():
    traced = []

    def counted(f):
        return lambda params, x: (traced.append(1), f(params, x))[1]

    apply = [counted(f) for f in APPLY]
    first = mda_am(
        BASE, DELTAS, apply, TARGETS, batches(3), start=task_wise(TASKS, 0.2)
    )
    mda_am(BASE, DELTAS, apply, TARGETS, batches(3), start=first, alpha=0.1)
    assert len(traced) == TASKS


def test_descents_go_on_where_they_stopped():
    data = batches(6)
    whole = mda_am(BASE, DELTAS, APPLY, TARGETS, data)
    half = mda_am(BASE, DELTAS, APPLY, TARGETS, data[:3])
    rest = mda_am(BASE, DELTAS, APPLY, TARGETS, data[3:], start=half)
    same(rest.trained, whole.trained)
    assert rest.losses == whole.losses and len(half.losses) == 3


def test_stops_when_the_loss_no_longer_falls_and_reports_every_step():
    seen = []
    still = optax.sgd(0.0)
    data = [batches(1)[0]] * 20
    found = adamerging(
        BASE,
        DELTAS,
        LOGITS,
        data,
        optimiser=still,
        patience=3,
        watch=lambda step, loss: seen.append((step, loss)),
    )
    assert len(found.losses) == 6
    assert seen == list(enumerate(found.losses, 1))


def test_gradients_are_finite_where_features_vanish():
    """At a merge whose features are all 0, means and rotations are undefined."""
    nothing = jax.tree.map(jnp.zeros_like, BASE)
    found = mda_am(nothing, DELTAS, APPLY, TARGETS, batches(2), start=task_wise(2, 0.0))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(found.trained))
