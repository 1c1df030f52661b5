"""Averagers against float64 loops, and against what they stand for."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

import mda_jax as mda
from mda_jax import training
from mda_jax.training import averagers


STEPS = 23
AVERAGERS = {
    "uniform": training.uniform(),
    "ema": training.ema(0.9),
    "half_life": training.ema(half_life=5.0),
    "warmup": training.ema(0.999, warmup=True),
    "biased": training.ema(0.9, debias=False),
    "window": training.window(4),
    "wsm": training.wsm(training.decay_factors(training.cosine, STEPS - 1)),
}
every = pytest.mark.parametrize("name", AVERAGERS)
# Each of 23 steps rounds numbers below 20 a few times in float32.
TOLERANCE = 4 * STEPS * 20 * np.finfo(np.float32).eps


def run_of(seed=0):
    """Parameters along a random walk: the first, then one for each step."""
    steps = np.random.default_rng(seed).normal(size=(STEPS + 1, 5))
    walk = np.cumsum(steps, 0).astype(np.float32)
    return [{"w": jnp.asarray(x), "n": jnp.int32(i)} for i, x in enumerate(walk)]


def bits(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def after(averager, run, update=None):
    """The state after a run."""
    state = averager.init(run[0])
    for params in run[1:]:
        state = (update or averager.update)(state, params)
    return state


def averaged(averager, run, update=None):
    return averager.value(after(averager, run, update))


def oracle(name, run):
    """The same averages as weights on the whole run, in float64."""
    values = np.stack([np.asarray(p["w"], np.float64) for p in run])
    first, later = values[0], values[1:]
    ages = np.arange(STEPS)[::-1]
    if name == "uniform":
        return later.mean(0)
    if name == "window":
        return later[-4:].mean(0)
    if name == "biased":
        return 0.9**STEPS * first + (0.1 * 0.9**ages) @ later
    if name == "wsm":
        middles = (np.arange(STEPS - 1) + 0.5) / (STEPS - 1)
        factors = 0.5 * (1 + np.cos(np.pi * middles))
        return later[0] + factors @ np.diff(later, axis=0)
    if name == "warmup":
        left = [min(0.999, (1 + n) / (10 + n)) for n in range(STEPS)]
        weights = np.array(
            [(1 - left[i]) * np.prod(left[i + 1 :]) for i in range(STEPS)]
        )
    else:
        left = 0.9 if name == "ema" else 0.5 ** (1 / 5)
        weights = left**ages
    return weights @ later / weights.sum()


@every
def test_is_the_weighted_mean_of_the_run(name):
    run = run_of()
    got = averaged(AVERAGERS[name], run)
    np.testing.assert_allclose(got["w"], oracle(name, run), rtol=0, atol=TOLERANCE)
    assert got["w"].dtype == jnp.float32 and got["n"] == STEPS


@every
def test_compiles_once_and_gives_the_same_with_donated_states(name):
    averager, run, traces = AVERAGERS[name], run_of(), []

    @partial(jax.jit, donate_argnums=0)
    def update(state, params):
        traces.append(0)
        return averager.update(state, params)

    got, plain = averaged(averager, run, update), averaged(averager, run)
    np.testing.assert_allclose(got["w"], plain["w"], rtol=0, atol=TOLERANCE)
    assert len(traces) == 1
    assert np.array_equal(run[0]["w"], run_of()[0]["w"])  # not given away


def test_steps_that_bfloat16_cannot_see_move_the_average():
    first, later = ({"w": jnp.full(3, v, jnp.bfloat16)} for v in (1.0, 1.0078125))
    slow = training.ema(0.999, debias=False)
    state = after(slow, [first, *[later] * STEPS])
    want = 1 + 0.0078125 * (1 - 0.999**STEPS)  # a fiftieth of the spacing above 1
    np.testing.assert_allclose(state.mean["w"], want, rtol=1e-6)
    assert slow.value(state)["w"].dtype == jnp.bfloat16
    long = after(slow, [first, *[later] * 1000])
    assert np.all(np.asarray(slow.value(long)["w"], np.float32) > 1)


@pytest.mark.parametrize(
    ("numbers", "left", "steps"),
    [({"decay": 0.9999}, 0.9999, 10_000), ({"half_life": 1e8}, 0.5**1e-8, 100)],
)
def test_long_memories_keep_their_digits(numbers, left, steps):
    """Of 1 - decay, a float32 decay would have lost three, or all."""
    averager = training.ema(debias=False, **numbers)
    start = averager.init({"w": jnp.zeros(())})
    end, _ = jax.lax.scan(
        lambda s, x: (averager.update(s, {"w": x}), None), start, jnp.ones(steps)
    )
    want = -np.expm1(steps * np.log(left))
    np.testing.assert_allclose(averager.value(end)["w"], want, rtol=2e-5)


@pytest.mark.parametrize("name", ["uniform", "ema", "half_life", "warmup", "wsm"])
def test_float64_stays(name):
    with jax.enable_x64(True):
        averager = {
            "uniform": lambda: training.uniform(),
            "ema": lambda: training.ema(0.9),
            "half_life": lambda: training.ema(half_life=5.0),
            "warmup": lambda: training.ema(0.999, warmup=True),
            "wsm": lambda: training.wsm(
                training.decay_factors(training.cosine, STEPS - 1)
            ),
        }[name]()
        walk = np.stack([np.asarray(p["w"], np.float64) for p in run_of()])
        end, _ = jax.lax.scan(
            lambda s, x: (averager.update(s, {"w": x}), None),
            averager.init({"w": jnp.asarray(walk[0])}),
            jnp.asarray(walk[1:]),
        )
        got = averager.value(end)["w"]
    bound = TOLERANCE * np.finfo(np.float64).eps / np.finfo(np.float32).eps
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, oracle(name, run_of()), rtol=0, atol=bound)


def test_what_does_not_count_may_be_infinite():
    run = [{"w": jnp.full(2, jnp.inf)}, {"w": jnp.ones(2)}, {"w": jnp.full(2, 3.0)}]
    for averager in (training.ema(0.5), training.uniform()):
        assert np.isfinite(averaged(averager, run)["w"]).all()
    merged = training.wsm([0.5])
    assert np.array_equal(averaged(merged, [*run, run[0]])["w"], [2.0, 2.0])


def test_the_value_outlives_the_state():
    averager = training.ema(0.5)
    state = averager.init(run_of()[0])
    best = averager.value(state)
    jax.jit(averager.update, donate_argnums=0)(state, run_of()[1])
    assert np.array_equal(best["w"], run_of()[0]["w"]) and best["n"] == 0


@pytest.mark.parametrize("name", ["uniform", "window"])
def test_what_cannot_be_averaged_is_refused(name):
    averager, one = AVERAGERS[name], {"w": jnp.ones(3)}
    for leaf, found in ((jnp.ones(3, complex), "complex64"), (1.0, "float")):
        with pytest.raises(ValueError, match=rf"params\['w'\] is {found}; expected an"):
            averager.init({"w": leaf})
    state = averager.init(one)
    with pytest.raises(
        ValueError, match=r"\['w'\] has shape \(4, 3\); expected \(3,\)"
    ):
        averager.update(state, {"w": jnp.ones((4, 3))})
    many = jax.vmap(averager.init)(training.replicate(one, 2))
    with pytest.raises(ValueError, match=r"count of shape \(2,\).*jax\.vmap"):
        averager.value(many)
    assert jax.vmap(averager.value)(many)["w"].shape == (2, 3)


def test_before_the_first_update_the_value_is_what_came_in():
    params = {"w": jnp.arange(3.0), "n": jnp.int32(7)}
    for averager in AVERAGERS.values():
        got = averager.value(averager.init(params))
        assert np.array_equal(got["w"], params["w"]) and got["n"] == 7


@pytest.mark.parametrize("curve", ["linear", "cosine", "one_minus_sqrt"])
def test_wsm_is_a_decay_of_the_learning_rate(curve):
    """Of updates that do not depend on where they start, as WSM assumes."""
    factors = training.decay_factors(getattr(averagers, curve), 6)
    assert (np.diff(factors) < 0).all() and 0 < factors[-1] < factors[0] < 1
    rng = np.random.default_rng(1)
    updates, start = rng.normal(size=(6, 4)), rng.normal(size=4)
    decayed = start + np.asarray(factors, np.float64) @ updates
    constant = start + np.concatenate([np.zeros((1, 4)), np.cumsum(updates, 0)])
    run = [{"w": jnp.asarray(x, jnp.float32)} for x in constant]
    online = averaged(training.wsm(factors), [run[0], *run])
    np.testing.assert_allclose(online["w"], decayed, rtol=0, atol=TOLERANCE)
    weights = training.merge_weights(factors)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-6)
    offline = mda.merge(run[0], run, mda.methods.linear(weights=weights))
    np.testing.assert_allclose(offline["w"], online["w"], rtol=0, atol=TOLERANCE)
    later = averaged(training.wsm(factors), [run[0], *run, run[0], run[1]])
    assert np.array_equal(later["w"], online["w"])


def test_a_traced_decay_is_differentiable_and_swept_at_once():
    run = run_of()

    def end(decay):
        return averaged(training.ema(decay), run)["w"].sum()

    swept = jax.jit(jax.vmap(end))(jnp.array([0.5, 0.9]))
    np.testing.assert_allclose(swept, [end(0.5), end(0.9)], rtol=1e-5)
    step = (end(0.9 + 1e-2) - end(0.9 - 1e-2)) / 2e-2
    np.testing.assert_allclose(jax.grad(end)(0.9), step, rtol=2e-2)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", ["ema", "biased", "window"])
def test_on_a_mesh_states_lie_where_the_parameters_do(name, kind, tmp_path):
    """No device asks another; a state restored to its place goes on alike."""
    averager = AVERAGERS[name]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    places = {"w": P("data"), "h": P(None, "data"), "n": P(), "key": P()}
    places = {name: NamedSharding(mesh, spec) for name, spec in places.items()}

    def params(seed):
        w, h = np.random.default_rng(seed).normal(size=(2, 8, 8)).astype(np.float32)
        h, key = jnp.asarray(h, jnp.bfloat16), jax.random.key(seed)
        return jax.device_put(
            {"w": w, "h": h, "n": jnp.int32(seed), "key": key}, places
        )

    def step(state, params):
        state = averager.update(state, params)
        return state, averager.value(state)

    start = averager.init(params(0))
    compiled = jax.jit(step).lower(start, params(1)).compile()
    assert not re.search("all-|reduce-scatter|collective", compiled.as_text())
    state, value = compiled(start, params(1))
    pairs = [(params(1), value), (start, state)]
    for old, new in zip(*map(jax.tree.leaves, zip(*pairs, strict=True)), strict=True):
        assert old.sharding.is_equivalent_to(new.sharding, old.ndim)
    for held in filter(lambda x: x.ndim > 1, jax.tree.leaves(start)):
        assert held.size == 8 * held.addressable_shards[0].data.size
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", start)
    ends = [compiled(each, params(2))[0] for each in (state, restored)]
    ends = [jax.tree.leaves(jax.tree.map(bits, end)) for end in ends]
    assert all(map(np.array_equal, *ends))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: training.ema(1.0), r"decay is 1\.0; expected in \[0, 1\)"),
        (lambda: training.ema(half_life=0), "half_life is 0; expected > 0"),
        (lambda: training.window(0), "size is 0; expected >= 1"),
        (lambda: training.wsm([1.2, 0.5]), r"factors is \[1\.2, 0\.5\]; expected num"),
        (lambda: training.wsm([0.2, 0.5]), "none above the one before"),
        (lambda: training.decay_factors(training.linear, 0), "count is 0; expected"),
    ],
)
def test_ranges(make, message):
    with pytest.raises(ValueError, match=message):
        make()
