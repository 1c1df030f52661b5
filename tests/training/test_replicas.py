"""Replicas merged along a run, against loops over lists of models."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from flax.training.train_state import TrainState
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from orbax.checkpoint.experimental import v1 as ocp

import mda_jax as mda
from mda_jax import training


REPLICAS, STEPS, RATE = 8, 5, 0.1
NESTEROV = optax.sgd(0.7, momentum=0.9, nesterov=True)
# Steps and merges of numbers near 1 round some tens of times in float32.
TOLERANCE = 64 * np.finfo(np.float32).eps


def mesh_of(kind):
    return jax.make_mesh((REPLICAS,), ("replica",), axis_types=(kind,))


def draws(seed, *lead):
    """Random values for the weights of a small model, `[*lead, *shape]`."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (4, 3), "bias": (3,)}
    return {name: rng.normal(size=(*lead, *s)) for name, s in shapes.items()}


def model():
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), draws(0))


def gradients(step, count=REPLICAS):
    drawn = draws(step + 1, count)
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), drawn)


def descended(params, gradients):
    return jax.tree.map(lambda x, g: x - RATE * g, params, gradients)


def run(update, state, replicas, inner=None, steps=range(STEPS), place=lambda x: x):
    """The three that a merger hands on, after steps with given gradients."""
    count = len(jax.tree.leaves(replicas)[0])
    for step in steps:
        trained = descended(replicas, place(gradients(step, count)))
        state, replicas, inner = update(state, trained, inner)
    return state, replicas, inner


def close(got, want, tolerance=TOLERANCE):
    compare = partial(np.testing.assert_allclose, rtol=0, atol=tolerance)
    jax.tree.map(lambda x, y: compare(data(x), data(y)), got, want)


def same(got, want):
    jax.tree.map(
        lambda x, y: np.testing.assert_array_equal(data(x), data(y)), got, want
    )


def data(x):
    return (
        jax.random.key_data(x)
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
        else x
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param("ties", AxisType.Auto, marks=pytest.mark.slow),
        ("ties", AxisType.Explicit),
        ("iso_c", AxisType.Auto),
        ("mda", AxisType.Explicit),
    ],
)
def test_on_a_mesh_replicas_go_on_from_what_merge_makes_of_their_list(name, kind):
    method = getattr(mda.methods, name)()
    merger = training.merge_every(2, method)
    anchor, models = model(), [model() for _ in range(REPLICAS)]
    for step in range(STEPS):
        each = gradients(step)
        models = [
            descended(x, jax.tree.map(lambda g, i=i: g[i], each))
            for i, x in enumerate(models)
        ]
        if step % 2:
            anchor = mda.merge(anchor, models, method)
            models = [anchor] * REPLICAS

    mesh = mesh_of(kind)
    spread = partial(jax.device_put, device=NamedSharding(mesh, P("replica")))
    start = jax.device_put(model(), NamedSharding(mesh, P()))
    given = (merger.init(start), spread(training.replicate(model(), REPLICAS)))
    shardings = jax.tree.map(lambda x: x.sharding, given)
    traces = []

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(state, replicas, inner):
        traces.append(0)
        return merger.update(state, replicas, inner)

    state, replicas, _ = run(update, *given, place=spread)
    close(state.anchor, anchor)
    close(replicas, jax.tree.map(lambda *xs: np.stack(xs), *models))
    assert len(traces) == 1
    kept = jax.tree.map(
        lambda x, s: x.sharding.is_equivalent_to(s, x.ndim),
        (state, replicas),
        shardings,
    )
    assert all(jax.tree.leaves(kept))
    close(start, model(), 0)  # not given away with the state


def test_the_outer_optimiser_of_diloco():
    """Against a loop in float64: momentum within replicas and over the merges."""
    inner = optax.sgd(RATE, momentum=0.5)
    merger = training.merge_every(2, mda.methods.linear(), outer=NESTEROV)
    state, replicas = merger.init(model()), training.replicate(model(), 3)
    states = jax.vmap(inner.init)(replicas)
    kernel = draws(0)["kernel"]
    anchor, outer = kernel, np.zeros_like(kernel)
    models, speeds = [kernel] * 3, [np.zeros_like(kernel)] * 3
    update = jax.jit(merger.update)
    for step in range(6):
        moves, states = jax.vmap(inner.update)(gradients(step, 3), states)
        trained = optax.apply_updates(replicas, moves)
        state, replicas, states = update(state, trained, states)
        speeds = [
            0.5 * v + g
            for v, g in zip(speeds, draws(step + 1, 3)["kernel"], strict=True)
        ]
        models = [x - RATE * v for x, v in zip(models, speeds, strict=True)]
        if step % 2:
            slope = anchor - np.mean(models, 0)
            outer = 0.9 * outer + slope
            anchor = anchor - 0.7 * (slope + 0.9 * outer)
            models = [anchor] * 3
    close(state.anchor["kernel"], anchor)
    close(replicas["kernel"], np.stack(models))


def test_a_gradient_step_of_one_is_plain_merging():
    ends = [
        run(
            jax.jit(merger.update), merger.init(model()), training.replicate(model(), 3)
        )
        for outer in (None, optax.sgd(1.0))
        for merger in [training.merge_every(2, mda.methods.linear(), outer=outer)]
    ]
    close(ends[0][1], ends[1][1])


def test_small_moves_of_a_bfloat16_model_add_up_and_none_moves_nothing():
    merger = training.merge_every(1, mda.methods.linear(), outer=optax.sgd(0.25))
    start = {"w": jnp.ones(4, jnp.bfloat16), "n": jnp.int32(3)}
    step, update = 2.0**-7, jax.jit(merger.update)  # the spacing above 1
    state, replicas = merger.init(start), training.replicate(start, 2)
    for _ in range(3):
        moved = {"w": replicas["w"] + jnp.bfloat16(step), "n": replicas["n"] + 1}
        state, replicas, _ = update(state, moved, None)
    # From 1, 1 and 1, as a half of the spacing rounds to even.
    np.testing.assert_array_equal(state.anchor["w"], 1 + 0.75 * step)
    assert replicas["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(replicas["w"].astype(jnp.float32), 1 + step)
    np.testing.assert_array_equal(replicas["n"], [6, 6])  # each its own
    state, replicas, _ = update(state, replicas, None)
    np.testing.assert_array_equal(state.anchor["w"], 1 + 0.75 * step)


def test_what_is_not_merged_each_replica_keeps():
    merger = training.merge_every(1, mda.methods.linear(), outer=NESTEROV)
    start = {"w": jnp.ones(2), "on": jnp.array(True), "key": jax.random.key(0)}
    replicas = training.replicate(start, 2)
    own = {"on": jnp.array([True, False]), "key": jax.random.split(start["key"])}
    state, after, _ = merger.update(merger.init(start), replicas | own, None)
    same({name: after[name] for name in own}, own)
    same({name: state.anchor[name] for name in own}, {n: start[n] for n in own})


def test_what_becomes_of_the_states_of_inner_optimisers():
    inner = optax.chain(optax.trace(0.9), optax.scale_by_schedule(lambda count: 1.0))
    replicas = training.replicate(model(), 2)
    states = jax.vmap(inner.init)(replicas)
    _, states = jax.vmap(inner.update)(gradients(0, 2), states)
    trace, clock = states
    ends = {}
    policies = training.keep, training.averaged, training.fresh(inner)
    for name, policy in zip(("keep", "averaged", "fresh"), policies, strict=True):
        merger = training.merge_every(2, mda.methods.linear(), optimiser_states=policy)
        first = merger.update(merger.init(model()), replicas, states)
        same(first[2], states)  # before the merge
        _, _, ends[name] = merger.update(*first)
    same(ends["keep"], states)
    same(ends["fresh"], jax.vmap(inner.init)(replicas))
    mean = jax.tree.map(lambda x: np.mean(np.asarray(x, np.float64), 0), trace)
    close(ends["averaged"][0], jax.tree.map(lambda x: np.stack([x, x]), mean))
    same(ends["averaged"][1], clock)


def test_a_named_axis_gives_what_stacked_replicas_give():
    """Under `shard_map`, its `out_specs` say of the state that all hold the same."""
    rules = {"kernel": mda.methods.iso_c(), ".*": mda.methods.dare_linear(density=0.5)}
    options = {
        "outer": NESTEROV,
        "optimiser_states": training.averaged,
        "key": jax.random.key(7),
    }
    stacked = training.merge_every(2, rules, **options)
    named = training.merge_every(2, rules, axis_name="replica", **options)
    start = training.replicate(model(), REPLICAS)
    given = stacked.init(model()), start, start
    want = run(jax.jit(stacked.update), *given)
    axes = (None, 0, 0)
    vmapped = jax.vmap(named.update, axes, axes, axis_name="replica")
    same(run(jax.jit(vmapped), *given), want)

    def alone(state, *mine):
        state, *mine = named.update(state, *jax.tree.map(lambda x: x[0], mine))
        return state, *jax.tree.map(lambda x: x[None], mine)

    mesh, specs = mesh_of(AxisType.Auto), (P(), P("replica"), P("replica"))
    for checked in (True, False):
        mapped = jax.shard_map(
            alone, mesh=mesh, in_specs=specs, out_specs=specs, check_vma=checked
        )
        close(run(jax.jit(mapped), *given), want)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_replicas_along_two_axes_each_spread_over_a_third(kind):
    """The same as stacked ones."""
    mesh = jax.make_mesh((2, 2, 2), ("host", "chip", "m"), axis_types=(kind,) * 3)
    axes = ("host", "chip")
    merger = training.merge_every(2, mda.methods.ties())
    named = training.merge_every(2, mda.methods.ties(), axis_name=axes)

    def alone(state, mine):
        mine = jax.tree.map(lambda x: x[0], mine)
        state, mine, _ = named.update(state, mine, None)
        return state, jax.tree.map(lambda x: jnp.expand_dims(x, 0), mine)

    specs = P(), P(axes)
    mapped = jax.jit(
        jax.shard_map(
            alone, mesh=mesh, in_specs=specs, out_specs=specs, axis_names=set(axes)
        )
    )
    start = {"w": jnp.ones((4, 6))}
    want = merger.init(start), training.replicate(start, 4), None
    shifts = [draws(i, 4, 2)["kernel"].reshape(4, 4, 6) for i in range(2)]
    shifts = [jnp.asarray(shift, jnp.float32) for shift in shifts]
    for shift in shifts:
        want = merger.update(want[0], {"w": want[1]["w"] + shift}, None)
    spread = NamedSharding(mesh, P(axes, "m"))
    with jax.set_mesh(mesh):
        state = merger.init(jax.device_put(start, NamedSharding(mesh, P("m"))))
        got = state, jax.device_put(training.replicate(start, 4), spread)
        for shift in shifts:
            got = mapped(got[0], {"w": got[1]["w"] + jax.device_put(shift, spread)})
    close(got, want[:2])
    assert got[1]["w"].sharding.is_equivalent_to(spread, 3)


def test_of_what_is_merged_some_may_be_trained():
    optimiser = optax.sgd(RATE, momentum=0.5)
    variables = {"params": model(), "stats": {"mean": jnp.zeros(2)}}
    policy = training.fresh(optimiser, lambda variables: variables["params"])
    merger = training.merge_every(1, mda.methods.linear(), optimiser_states=policy)
    replicas = training.replicate(variables, 2)
    states = jax.vmap(optimiser.init)(replicas["params"])
    moved = jax.tree.map(jnp.ones_like, states)
    same(merger.update(merger.init(variables), replicas, moved)[2], states)


def test_frozen_leaves_that_do_not_vary_stay_so():
    mesh = mesh_of(AxisType.Auto)
    start = {"w": jnp.ones(2), "frozen": jnp.full(2, 3.0)}

    def alone(w):
        mine = {"w": w[0], "frozen": start["frozen"]}
        merge = partial(training.merge_replicas, axis_name="replica")
        return merge(start, mine, mda.methods.linear())

    shares = jnp.arange(2.0 * REPLICAS).reshape(REPLICAS, 2)
    mapped = jax.shard_map(alone, mesh=mesh, in_specs=P("replica"), out_specs=P())
    close(jax.jit(mapped)(shares), {"w": shares.mean(0), "frozen": jnp.full(2, 3.0)})


def test_stacked_replicas_within_shard_map():
    """Each device has all replicas, as where only the data are split."""
    merger = training.merge_every(1, mda.methods.linear())
    given = merger.init(model()), training.replicate(model(), 2), None
    mapped = jax.shard_map(
        merger.update, mesh=mesh_of(AxisType.Auto), in_specs=P(), out_specs=P()
    )
    same(jax.jit(mapped)(*given)[1], given[1])


def test_weakly_typed_parameters_compile_once():
    merger, traces = training.merge_every(2, mda.methods.linear()), []
    start = {"w": jnp.full(2, 1.0)}
    given = merger.init(start), training.replicate(start, 2), None

    @jax.jit
    def update(*given):
        traces.append(0)
        return merger.update(*given)

    for _ in range(3):
        given = update(*given)
    assert start["w"].weak_type and len(traces) == 1


def test_between_merges_nothing_is_merged():
    merger = training.merge_every(3, mda.methods.linear())
    given = merger.init(model()), training.replicate(model(), 2), None
    made = jax.make_jaxpr(merger.update)(*given)
    assert [e.primitive.name for e in made.eqns].count("cond") == 1
    lone = descended(given[1], gradients(0, 2))
    same(merger.update(given[0], lone, None)[1], lone)


def test_the_interval_may_be_traced():
    def end(k):
        merger = training.merge_every(k, mda.methods.linear())
        given = merger.init(model()), training.replicate(model(), 2)
        return run(merger.update, *given, steps=range(3))[0].anchor

    ends = jax.jit(end)
    same(ends(4), model())
    merger = training.merge_every(2, mda.methods.linear())
    given = merger.init(model()), training.replicate(model(), 2)
    close(ends(2), run(merger.update, *given, steps=range(3))[0].anchor)


@pytest.mark.parametrize(
    "kind",
    [pytest.param(AxisType.Auto, marks=pytest.mark.slow), AxisType.Explicit],
)
def test_a_resumed_run_is_the_run_to_the_last_bit(kind, tmp_path):
    """Saved between two random merges, with averages in the replicas' optimisers."""
    mesh = mesh_of(kind)
    put = partial(jax.device_put, device=NamedSharding(mesh, P("replica")))
    averager = training.ema(0.9)
    inner = optax.chain(optax.sgd(RATE, momentum=0.9), training.averaging(averager))

    def begun(seed):
        """A program that starts anew: its merger, its step and what it starts with."""
        merger = training.merge_every(
            2, mda.methods.dare_linear(), outer=NESTEROV, key=jax.random.key(seed)
        )

        @jax.jit
        def step(state, replicas, states, gradients):
            moves, states = jax.vmap(inner.update)(gradients, states, replicas)
            trained = optax.apply_updates(replicas, moves)
            return merger.update(state, trained, states)

        start = jax.device_put(model(), NamedSharding(mesh, P()))
        replicas = training.replicate(model(), REPLICAS)
        states = put(jax.vmap(inner.init)(replicas))
        return step, (merger.init(start), put(replicas), states)

    step, at = begun(0)
    for i in range(STEPS):
        at = step(*at, put(gradients(i)))
        if i == 2:
            ocp.save(tmp_path / "run", at)
    step, fresh = begun(1)  # the key is the saved one
    resumed = ocp.load(tmp_path / "run", fresh)
    for i in (3, 4):
        resumed = step(*resumed, put(gradients(i)))
    same(resumed, at)
    assert jax.tree.structure(resumed) == jax.tree.structure(at)
    # One program; to the cache of JAX, explicit specs are others once written in full.
    assert step._cache_size() == (1 if kind == AxisType.Auto else 2)
    averages = jax.vmap(partial(training.averaged_params, averager))(resumed[2])
    assert averages["kernel"].sharding.is_equivalent_to(
        resumed[1]["kernel"].sharding, 3
    )


def test_linen_train_states():
    module, x = linen.Dense(2), jnp.ones((3, 5, 4))
    params = module.init(jax.random.key(0), x[0])["params"]
    make = partial(TrainState.create, apply_fn=module.apply, tx=optax.sgd(RATE))
    each = jax.vmap(lambda params: make(params=params))(training.replicate(params, 3))
    targets = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 2)), jnp.float32)
    merger = training.merge_every(2, mda.methods.iso_c())

    def loss(params, x, y):
        return ((module.apply({"params": params}, x) - y) ** 2).mean()

    @jax.jit
    def step(state, each):
        slopes = jax.vmap(jax.grad(loss))(each.params, x, targets)
        each = jax.vmap(lambda one, g: one.apply_gradients(grads=g))(each, slopes)
        state, params, opt_state = merger.update(state, each.params, each.opt_state)
        return state, each.replace(params=params, opt_state=opt_state)

    state, apart = merger.init(params), []
    for _ in range(3):
        state, each = step(state, each)
        apart.append(float(jnp.ptp(each.params["kernel"], 0).max()))
    assert apart[0] > 0 and apart[1] == 0 and apart[2] > 0
    assert each.step.tolist() == [3, 3, 3]


def test_nnx_states():
    graph, params, rest = nnx.split(
        nnx.Sequential(
            nnx.Linear(4, 2, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(1))
        ),
        nnx.Param,
        ...,
    )
    rest = training.replicate(rest, 3)
    replicas, x = training.replicate(params, 3), jnp.ones((3, 5, 4))
    merger = training.merge_every(2, mda.methods.ties(), outer=NESTEROV)

    def loss(params, rest, x):
        net = nnx.merge(graph, params, rest, copy=True)
        return (net(x) ** 2).mean(), nnx.state(net, nnx.Not(nnx.Param))

    @jax.jit
    def step(state, replicas, rest):
        slopes, rest = jax.vmap(jax.grad(loss, has_aux=True))(
            replicas, rest, x * jnp.arange(1.0, 4)[:, None, None]
        )
        return *merger.update(state, descended(replicas, slopes), None), rest

    state, apart = merger.init(params), []
    for _ in range(3):
        state, replicas, _, rest = step(state, replicas, rest)
        apart.append(float(jnp.ptp(jax.tree.leaves(replicas)[1], 0).max()))
    assert apart[0] > 0 and apart[1] == 0 and apart[2] > 0
    assert nnx.merge(graph, state.anchor, jax.tree.map(lambda r: r[0], rest))(x).shape


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: training.merge_every(0, mda.chain()),
            "merge_every(k=0): k is at least",
        ),
        (
            lambda: training.merge_every(1, mda.chain(), key=jax.random.PRNGKey(0)),
            "merge_every: key is an array of uint32",
        ),
        (lambda: training.merge_every(1, mda.chain(), key=3), "key is 3; pass one"),
        (lambda: updated(mda.methods.ties), "method is ties; expected one"),
        (lambda: training.replicate(model(), 0), "replicate(count=0)"),
        (
            lambda: updated(mda.chain(), replicas=gradients(0)["kernel"]),
            "merge_every: replicas lacks ['bias', 'kernel']",
        ),
        (
            lambda: updated(mda.chain(), replicas=model()),
            "merge_every: replicas['bias'] has shape (3,), base has (3, 3)",
        ),
        (lambda: updated(mda.methods.dare_linear()), "needs a key"),
        (
            lambda: updated(
                mda.chain(), optimiser_states=training.fresh(optax.sgd(1.0, 0.9))
            ),
            "Pass `fresh` the optimiser that they are trained with",
        ),
    ],
)
def test_what_does_not_fit_is_told(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def updated(method, replicas=None, **options):
    merger = training.merge_every(1, method, **options)
    replicas = training.replicate(model(), 2) if replicas is None else replicas
    return merger.update(merger.init(model()), replicas, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", mda.methods.names)
def test_every_method_merges_replicas_of_a_mesh(name):
    """Through `shard_map`, equal to the merge of a list; it lowers for TPU, too."""
    method, count = getattr(mda.methods, name)(), mda.methods.experts_of(name)
    trees = [
        descended(training.replicate(model(), 1), gradients(i, 1))
        for i in range(REPLICAS)
    ]
    trees = [jax.tree.map(lambda x: x[0], tree) for tree in trees][:count]
    want = mda.merge(model(), trees, method, key=jax.random.key(0))
    mesh = jax.make_mesh((len(trees),), ("replica",), axis_types=(AxisType.Auto,))

    def alone(base, mine):
        return training.merge_replicas(
            base,
            jax.tree.map(lambda x: x[0], mine),
            method,
            axis_name="replica",
            key=jax.random.key(0),
        )

    given = model(), jax.tree.map(lambda *xs: jnp.stack(xs), *trees)
    specs = {"in_specs": (P(), P("replica")), "out_specs": P()}
    mapped = jax.jit(jax.shard_map(alone, mesh=mesh, **specs))
    close(mapped(*given), want, 1e-5)
    assert jax.export.export(mapped, platforms=["tpu"])(*given).mlir_module()
