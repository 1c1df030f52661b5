"""Counts against those made by hand, and by XLA where it counts everything."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from mda_jax import engine, linalg, merge, methods
from mda_jax.engine._operations import Place, work


MESH = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
LONG = jax.ShapeDtypeStruct((3, 12, 5), jnp.float32)


def spread(shape, *spec, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(MESH, P(*spec)))


def counted(f, *args, platform="tpu", devices=1):
    return work(jax.make_jaxpr(f)(*args), Place(platform, devices))


def five_times(f):
    return lambda x: jax.lax.scan(lambda c, _: (f(c), None), x, length=5)[0]


def as_long_as(f):
    return lambda x: jax.lax.while_loop(lambda c: c.sum() > 0, f, x)


PRODUCT = 3 * 2 * 12 * 5 * 5


@pytest.mark.parametrize(
    ("f", "expected"),
    [
        (linalg._ops.gram, PRODUCT),
        (jax.jit(jax.vmap(linalg._ops.gram)), PRODUCT),
        (jax.checkpoint(linalg._ops.gram), PRODUCT),
        (five_times(lambda x: x @ jnp.ones((5, 5))), 5 * PRODUCT),
        (as_long_as(lambda x: x @ jnp.ones((5, 5))), PRODUCT),
        (
            lambda x: jax.lax.cond(x.sum() > 0, lambda: x, lambda: x @ (x.mT @ x)),
            2 * PRODUCT,
        ),
        (lambda x: x + 1, 0),
    ],
)
def test_products_are_counted(f, expected):
    assert counted(f, LONG).products == expected


@pytest.mark.parametrize(
    ("f", "each"),
    [
        (jnp.linalg.qr, 4 * 12 * 25 - 4 / 3 * 125),
        (lambda x: linalg._lapack.eigh(x.mT @ x), 9 * 125),
        (lambda x: jnp.linalg.svd(x, full_matrices=False), 6 * 12 * 25 + 20 * 125),
        (lambda x: jnp.linalg.cholesky(x.mT @ x), 125 / 3),
        (lambda x: jax.lax.linalg.lu(x.mT @ x), 2 / 3 * 125),
        (lambda x: linalg.solve_positive(x.mT @ x, x.mT), 125 / 3 + 2 * 25 * 12),
    ],
)
def test_decompositions_are_counted_and_not_split(f, each):
    for devices in (1, 8):
        found = counted(f, LONG, devices=devices)
        np.testing.assert_allclose(found.factorisations, 3 * each)


def test_what_runs_there_counts():
    def f(x):
        squared = {"tpu": linalg._ops.gram, "default": lambda x: x[:, :5]}
        return jax.lax.platform_dependent(x, **squared)

    assert counted(f, LONG, platform="tpu").products == PRODUCT
    assert counted(f, LONG, platform="cuda").products == 0
    assert counted(linalg.polar, LONG, platform="cpu").factorisations > 0
    assert counted(linalg.polar, LONG, platform="tpu").factorisations == 0


def test_a_device_does_its_part():
    def whole(x):
        return x @ x.mT

    split = jax.shard_map(whole, mesh=MESH, in_specs=P("x"), out_specs=P("x"))
    x = jax.ShapeDtypeStruct((8, 12, 5), jnp.float32)
    every = 8 * 2 * 12 * 12 * 5
    assert counted(whole, x, devices=8).products == every / 8
    assert counted(split, x, devices=8).products == every / 4  # y is not used


def test_products_are_those_that_xla_counts():
    x = jnp.ones((64, 64))
    found = engine.cost(lambda x: x @ x @ x, x)
    xla = jax.jit(lambda x: x @ x @ x).lower(x).compile().cost_analysis()
    assert found.products == xla["flops"] == 4 * 64**3
    assert found.arguments == found.results == 4 * 64**2


def test_messages_are_counted_also_in_loops():
    def of_each(x):
        def add(c, _):
            return c + jax.lax.psum(c, "x"), None

        x = jax.lax.pcast(x, ("y",), to="varying")
        summed = jax.lax.scan(add, x, length=5)[0]
        gathered = jax.lax.all_gather(summed, "y")
        return summed, gathered, jax.lax.psum_scatter(gathered.ravel(), "x", tiled=True)

    f = jax.shard_map(of_each, mesh=MESH, in_specs=P("x"), out_specs=P(("x", "y")))
    found = engine.cost(f, spread((4, 16), "x")).collectives
    block = 16 * 4  # bytes
    assert found["all-reduce"] == 5 * 2 * block
    assert found["all-gather"] == 2 * block
    assert found["reduce-scatter"] == 2 * block


def test_a_merge_entry_by_entry_sends_nothing_and_reads_all_once():
    leaf = spread((64, 32), "x", "y", dtype=jnp.bfloat16)
    tree = {f"h.{i}.kernel": leaf for i in range(3)}
    found = engine.cost(lambda b, e: merge(b, e, methods.linear()), tree, [tree] * 4)
    part = 64 * 32 * 2 // 8
    assert found.collectives == {} and found.products == found.factorisations == 0
    # Beside the leaves there is a pointer to each.
    assert 0 <= found.arguments - 3 * 5 * part <= 256
    assert 0 <= found.results - 3 * part <= 256
    assert found.traffic == found.arguments + found.results


def test_what_is_donated_is_held_once():
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    found = engine.cost(step, spread((64, 32), "x", "y"))
    assert found.held - found.temporary == 64 * 32 * 4 // 8


def test_an_estimate_is_the_slowest_of_three():
    chip = engine.Accelerator("it", 6e12, 1e12, 1e9, 1e8, 1 << 30)
    cost = engine.Cost(
        3e12, 1e12, 2e9, {"all-gather": 1e8, "all-reduce": 2e8}, 1, 2, 3, 1
    )
    assert chip.seconds(cost) == 4
    assert chip.seconds(cost._replace(traffic=5e9)) == 5
    assert chip.seconds(cost._replace(collectives={"all-reduce": 6e8})) == 6
    assert cost.held == 5


@pytest.mark.parametrize("chip", engine.ACCELERATORS, ids=lambda chip: chip.name)
def test_peaks_are_those_of_one_chip(chip):
    assert 1e13 < chip.float32 < chip.bfloat16 < 1e15
    assert 1e11 <= chip.link_rate < chip.memory_rate < 1e13
    assert 16 << 30 <= chip.memory <= 80 << 30
