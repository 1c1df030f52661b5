"""Slopes of every method against central differences of the method, in float64."""

import inspect
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import as_stage, assert_slope, difference
from jax.tree_util import Partial
from nonfinite import watched

from mda_jax import Role, Side, methods, primitives as p, training


SHAPE = M, N = 7, 6  # two leading directions for each of three experts
DRAW = np.random.default_rng(0)
BASE, COTANGENT = DRAW.normal(size=(2, *SHAPE))
KEY = jax.random.key(0)

# Numbers that only choose between entries, experts or steps: no slope.
CHOICES = {
    "breadcrumbs": {"density", "outliers"},
    "breadcrumbs_ties": {"density", "outliers"},
    "consensus": {"share", "votes"},
    "dc_merge": {"density"},
    "karcher": {"tolerance"},
    "pcb": {"density", "clip"},
    "ram": {"epsilon"},
    "ram_plus": {"epsilon"},
    "sce": {"share"},
    "tatr": {"quantile"},
    "ties": {"density"},
    "ties_global": {"density"},
}
# Values at which every number counts and no choice is at its edge.
VALUES = {
    "density": 0.55,
    "outliers": 0.13,
    "epsilon": 0.05,
    "quantile": 0.83,
    "votes": 1.5,
    "clip": 0.06,
    "tolerance": 1e-2,
    "t": 0.3,
    "share": 0.43,
}
SPECTRAL = "dc_merge dls iso_c iso_cts mda mda_frame mda_project mda_task_frame svc tsv"
SPECTRAL = set(SPECTRAL.split())
# Where a result depends on which basis of equal singular values is taken, and where
# singular values are rounding, which a flat spectrum raises.
UNDETERMINED = {
    "equal in pairs": {"dc_merge", "mda_frame", "mda_project"},
    "all equal": {"dc_merge", "iso_cts", "mda_frame", "mda_project", "tsv"}
    | {"breadcrumbs", "breadcrumbs_ties", "tatr"},
    "rank one": {"mda"},
}
APART = {"pcb": "float32 quantiles", "wudi": "steps held still"}  # in tests/methods
LONG = {"dc_merge", "mda_task_frame", "pcb", "tatr", "ties_global"}  # to compile
every_method = pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in LONG else [])
        for n in methods.names
    ],
)


def test_the_numbers_that_only_choose_are_documented():
    for number in set().union(*CHOICES.values()):
        assert f"`{number}`" in methods.__doc__


def with_spectrum(k, *values):
    left, right = (
        np.linalg.qr(DRAW.normal(size=(k, n, len(values))))[0] for n in SHAPE
    )
    return left * np.array(values) @ right.swapaxes(1, 2)


GENERIC, OTHER = DRAW.normal(size=(2, 3, *SHAPE))
CASES = {
    "generic": GENERIC,
    "zero": 0 * GENERIC,
    "one expert is zero": GENERIC * np.array([1.0, 1, 0])[:, None, None],
    "identical": np.stack([GENERIC[0]] * 3),
    "sparse": np.where(DRAW.random(GENERIC.shape) < 0.5, GENERIC, 0),
    "rank one": with_spectrum(3, 1.5),
    "rank two": with_spectrum(3, 2.0, 1.0),
    "equal in pairs": with_spectrum(3, 2.0, 2.0, 1.0, 1.0, 0.5, 0.5),
    "all equal": np.stack([np.eye(M, N)] * 3),
}


def numbers(name):
    """The numbers of a method that may be traced, and values for them."""
    given = inspect.signature(getattr(methods, name)).parameters.values()
    found = {x.name: x.default for x in given if x.kind != x.KEYWORD_ONLY}
    fixed = {"common", "rounds", "steps", "merge"}  # they decide shapes, or are stages
    found = {n: VALUES.get(n, x) for n, x in found.items() if n not in fixed}
    if "weights" in found:
        found["weights"] = [0.7, 1.2, 0.5][: methods.experts_of(name)]
    return {n: np.asarray(x, float) for n, x in found.items()}


def functional(method, base, d):
    """A number that any change of the merged matrix changes."""
    side = Side(base, KEY, role=Role.MATRIX)
    merged = as_stage(method, d)(d, side).sum(0)
    return (merged * jnp.asarray(COTANGENT, d.dtype)).sum()


def made(name, numbers, base, d):
    return functional(getattr(methods, name)(**numbers), base, d)


@cache
def slopes(name):
    """The value, and its slopes in the numbers, the base and the deltas."""
    return jax.jit(jax.value_and_grad(partial(made, name), (0, 1, 2)))


def experts(name):
    return methods.experts_of(name.split(",")[0].split()[0]) or 3


def deltas(name, case):
    return CASES[case][: experts(name)]


@every_method
@pytest.mark.parametrize("case", ["generic", "sparse"])
def test_slopes_in_numbers_base_and_experts(name, case):
    """Along random directions; where entries are 0, along what leaves them 0."""
    if name in APART:
        pytest.skip(APART[name])
    d, given = deltas(name, case), numbers(name)
    with jax.enable_x64(True):
        _, (of_numbers, of_base, of_deltas) = slopes(name)(given, BASE, d)
        for n, x in given.items():
            push = 1.0 + np.arange(x.size).reshape(x.shape)
            got = (of_numbers[n] * push).sum()
            assert_slope(
                got, difference(line(name, (given, BASE, d), ({n: push}, 0, 0)))
            )
            if n in CHOICES.get(name, ()):
                assert got == 0, n
            elif case == "sparse":
                assert abs(got) > 1e-4, n
        push = OTHER[: len(d)] * (d != 0)
        want = difference(line(name, (given, BASE, d), ({}, 0, push)))
        assert_slope((of_deltas * push).sum(), want)
        want = difference(line(name, (given, BASE, d), ({}, OTHER[0], 0)))
        assert_slope((of_base * OTHER[0]).sum(), want)


def line(name, point, push):
    """Values of the functional along a line."""
    (numbers, base, d), (changes, of_base, of_d) = point, push

    def value(h):
        moved = {n: x + h * changes.get(n, 0) for n, x in numbers.items()}
        return slopes(name)(moved, base + h * of_base, d + h * of_d)[0]

    return value


def along(name, d):
    """A curve through the deltas that keeps ranks, or else zeros, signs and order."""
    turn, stretch = OTHER[0] @ OTHER[1].T, OTHER[0].T @ OTHER[1]
    if name in SPECTRAL:
        return lambda h: (np.eye(M) + h * turn) @ d @ (np.eye(N) + h * stretch)
    return lambda h: d * (1 + h * OTHER[0])


@every_method
@pytest.mark.parametrize("case", [c for c in CASES if c not in ("generic", "sparse")])
def test_slopes_at_zero_equal_and_missing_singular_values(name, case):
    """Finite in all directions; right along those that change no rank and no choice."""
    d, given = deltas(name, case), numbers(name)
    curve = along(name, d)
    with jax.enable_x64(True):
        _, all_slopes = slopes(name)(given, BASE, d)
        for slope in jax.tree.leaves(all_slopes):
            assert jnp.isfinite(slope).all()
        if name in {*APART, *UNDETERMINED.get(case, ())}:
            return
        push = curve(0.5) - curve(-0.5)
        want = difference(lambda h: slopes(name)(given, BASE, curve(h))[0])
        assert_slope((all_slopes[2] * push).sum(), want)


SINGLE = {c: x.astype(np.float32) for c, x in CASES.items()}
SINGLE |= {"1e-20": 1e-20 * SINGLE["generic"], "1e15": 1e15 * SINGLE["generic"]}
QUICK = {"mda", "slerp", "ties"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow)
        for n in methods.names
    ],
)
def test_no_step_makes_a_nan_or_an_infinity(name):
    """Nor is one hidden by a choice between numbers, in single precision."""
    f = jax.jit(watched(jax.value_and_grad(partial(made, name), (0, 1, 2))))
    given = {n: jnp.asarray(x, jnp.float32) for n, x in numbers(name).items()}
    for case, d in SINGLE.items():
        for base in (BASE, 0 * BASE):
            d = d[: experts(name)]
            results, bad = f(given, jnp.asarray(base, jnp.float32), jnp.asarray(d))
            assert not bad, case
            assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(results)), case


VARIANTS = {
    "consensus of ties": lambda: methods.consensus(multi=methods.ties(0.5)),
    "dare_linear to norm": lambda: methods.dare_linear(rescale=p.by_l1_norm),
    "della to norm": lambda: methods.della(rescale=p.by_l1_norm),
    "iso_cts in half": lambda: methods.iso_cts(common=0.5),
    "mda_frame, both sides": lambda: methods.mda_frame(right=p.on_one_frame),
    "mda_frame, flat": lambda: methods.mda_frame(spectrum=p.flat_cores),
    "mda_frame, by energy": lambda: methods.mda_frame(
        spectrum=Partial(p.leading_energy, share=0.7)
    ),
    "model_stock, rows": lambda: methods.model_stock(vectors=p.rows),
    "model_stock, angles": lambda: methods.model_stock(cosine=p.cosine_of_mean_angle),
    "multislerp, sums": lambda: methods.multislerp(average=p.weighted_sum),
    "nuslerp, columns": lambda: methods.nuslerp(vectors=p.columns),
    "sce, other signs": lambda: methods.sce(0.5, elect=p.nonnegative_sign_of_sum),
    "svc of tsv": lambda: methods.svc(methods.tsv()),
    "ties_global, largest": lambda: methods.ties_global(0.5, merged=p.agreeing_largest),
}
MADE = {n: getattr(methods, n) for n in methods.names if n not in APART} | VARIANTS


@pytest.mark.slow
@pytest.mark.parametrize("name", MADE)
def test_slopes_at_many_draws(name):
    """A draw in ten may have a choice at its edge: 150 entries, steps of 1e-4."""
    slope = jax.jit(
        jax.value_and_grad(lambda d, base: functional(MADE[name](), base, d))
    )
    draw, wrong = np.random.default_rng(1), 0
    with jax.enable_x64(True):
        for _ in range(20):
            d, push = draw.normal(size=(2, experts(name), *SHAPE))
            want = difference(lambda h, d=d, push=push: slope(d + h * push, BASE)[0])
            got = (slope(d, BASE)[1] * push).sum()
            wrong += not np.isclose(got, want, rtol=1e-6, atol=1e-7)
    assert wrong <= 5


AVERAGERS = {
    "uniform": lambda x: training.uniform(),
    "ema": lambda x: training.ema(x),
    "warmup": lambda x: training.ema(x, warmup=True),
    "biased": lambda x: training.ema(x, debias=False),
    "half_life": lambda x: training.ema(half_life=4 * x),
    "wsm": lambda x: training.wsm(x * jnp.array([0.9, 0.5, 0.2])),
    "window": lambda x: training.window(3),
}


@pytest.mark.parametrize("name", AVERAGERS)
@pytest.mark.parametrize("updates", [0, 1, 4])
def test_slopes_of_averages_in_parameters_and_numbers(name, updates):
    @jax.jit
    @partial(jax.value_and_grad, argnums=(0, 1))
    def slope(x, run):
        averager = AVERAGERS[name](x)
        state = averager.init(run[0])
        for params in run[1:]:
            state = averager.update(state, params)
        return (averager.value(state) * jnp.asarray(COTANGENT[0], x.dtype)).sum()

    x, run = np.float32(0.8), DRAW.normal(size=(updates + 1, N)).astype(np.float32)
    _, (of_x, of_run) = slope(x, run)
    # Linear in the parameters. In numbers: 2e-3 for the square of the step, times third
    # derivatives; 16 roundings of a value below 5.
    step = np.float32(1 / 64)
    push = OTHER[0][: updates + 1].astype(np.float32)
    for got, plus, minus in (
        ((of_run * push).sum(), (x, run + push), (x, run - push)),
        (of_x * step, (x + step, run), (x - step, run)),
    ):
        want = (slope(*plus)[0] - slope(*minus)[0]) / 2
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-5)
