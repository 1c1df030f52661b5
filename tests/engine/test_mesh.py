"""On eight devices: where results lie, what moves, and what comes out."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid, near
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from mda_jax import combine, merge, methods
from mda_jax.engine import stream
from mda_jax.engine._kernel import merge_chunk


KEY = jax.random.key(0)
SHAPES = {f"h.{i}.{n}.kernel": s for i in range(3) for n, s in (("q", (16, 24)),)}
SHAPES |= {"h.0.o.kernel": (16, 24), "attn.query.kernel": (16, 8, 4), "h.0.bias": (24,)}
SHAPES |= {"layers.mlp.kernel": (3, 16, 24), "scale": ()}
OTHER = "h.0.o.kernel"  # as wide as others, hence in their bucket; lies the other way
SPECS = {2: P("x", "y"), 3: P("x", "y"), 1: P("y"), 0: P()}
MOVES = "all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"
ELEMENTWISE = "dare_linear", "passthrough"  # and the entrywise ones
ELEMENTWISE += tuple(
    name for name in methods.names if combine.is_entrywise(getattr(methods, name)())
)
kinds = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)


def tree(seed):
    return {n: jnp.asarray(grid(seed, s)) for n, s in SHAPES.items()}


def mesh_of(kind, shape=(4, 2)):
    return jax.make_mesh(shape, ("x", "y"), axis_types=(kind, kind))


def places(kind, shape=(4, 2)):
    mesh = mesh_of(kind, shape)
    specs = {n: SPECS[len(s)] for n, s in SHAPES.items()}
    specs |= {OTHER: P("y", "x"), "layers.mlp.kernel": P(None, "x", "y")}
    return {n: NamedSharding(mesh, specs[n]) for n in SHAPES}


def spread(kind, count=3, shape=(4, 2)):
    at = places(kind, shape)
    return [jax.device_put(tree(seed), at) for seed in range(count + 1)]


def moves(compiled):
    text = compiled.as_text()
    return {move for move in MOVES if re.search(rf"\b{move}(-start)?\(", text)}


def compiled(method, base, experts):
    f = jax.jit(lambda b, e: merge(b, e, method, key=KEY))
    return f.lower(base, experts).compile()


def lie_as(out, like):
    return all(
        x.sharding.is_equivalent_to(y.sharding, x.ndim)
        for x, y in zip(jax.tree.leaves(out), jax.tree.leaves(like), strict=True)
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((name, AxisType.Auto) for name in ELEMENTWISE),
        ("linear", AxisType.Explicit),
        pytest.param("dare_ties", AxisType.Auto, marks=pytest.mark.slow),
    ],
)
def test_entry_by_entry_nothing_moves(name, kind):
    count = methods.experts_of(name) or 3
    base, *experts = spread(kind, count)
    method = getattr(methods, name)()
    program = compiled(method, base, experts)
    assert not moves(program)
    out = program(base, experts)
    assert lie_as(out, base)
    plain = merge(tree(0), [tree(i + 1) for i in range(count)], method, key=KEY)
    for leaf in SHAPES:  # the last bit may differ where a product is fused with a sum
        np.testing.assert_allclose(out[leaf], plain[leaf], atol=2**-22)


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("attn.query.kernel", (16, 4, 8), P(None, None, "x")),
        ("attn.query.kernel", (16, 4, 8), P("x", None, "y")),
        ("attn.proj.kernel", (4, 8, 16), P("x")),
        ("layers.attn.query.kernel", (8, 16, 4, 8), P("x", None, None, "y")),
    ],
)
def test_axes_that_a_matrix_would_join_may_lie_anyhow(name, shape, spec):
    mesh = mesh_of(AxisType.Auto)
    place = NamedSharding(mesh, spec)
    base, *experts = ({name: jnp.asarray(grid(i, shape))} for i in range(4))
    there = [jax.device_put(t, place) for t in (base, *experts)]
    program = compiled(methods.linear(), there[0], there[1:])
    assert not moves(program)
    out, want = program(there[0], there[1:]), merge(base, experts, methods.linear())
    assert lie_as(out, there[0])
    np.testing.assert_allclose(out[name], want[name], atol=2**-22)


@kinds
@pytest.mark.parametrize("name", ["linear", "ties"])
def test_the_base_may_be_elsewhere(name, kind):
    """Not put anywhere, or NumPy's: the result is with it, or with the experts."""
    method, models = getattr(methods, name)(), spread(kind)
    here = tree(0)
    want = merge(here, [tree(i) for i in (1, 2, 3)], method)
    for base in (here, jax.tree.map(np.asarray, here)):
        out = merge(base, models[1:], method)
        assert base is not here or lie_as(out, here)
        for leaf in SHAPES:
            np.testing.assert_allclose(out[leaf], want[leaf], atol=2**-22)


@kinds
@pytest.mark.parametrize("name", ["linear", "iso_c"])
def test_a_mesh_may_be_set(name, kind):
    """Eager, of arrays that are on the mesh, and of others."""
    method, plain = getattr(methods, name)(), [tree(i) for i in range(4)]
    want = merge(plain[0], plain[1:], method)
    with jax.set_mesh(mesh_of(kind)):
        for base, *experts in (spread(kind), plain):
            out = merge(base, experts, method)
            assert base is plain[0] or lie_as(out, base)
            near(out, want)


@pytest.mark.parametrize("name", ["linear", "ties", "iso_c"])
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_within_shard_map_over_another_axis(name, kind):
    """Replicas along one axis, each spread over the other."""
    mesh = jax.make_mesh((2, 4), ("r", "m"), axis_types=(AxisType.Auto, kind))
    method, shape = getattr(methods, name)(), (2, 8, 16)
    models = [{"up.kernel": jnp.asarray(grid(i, shape))} for i in range(3)]
    there = jax.device_put(models, NamedSharding(mesh, P("r", "m")))

    @jax.jit
    @partial(
        jax.shard_map, mesh=mesh, in_specs=P("r"), out_specs=P("r"), axis_names={"r"}
    )
    def merged(models):
        base, *experts = [{n: x[0] for n, x in t.items()} for t in models]
        return {n: x[None] for n, x in merge(base, experts, method).items()}

    with jax.set_mesh(mesh):
        out = merged(there)["up.kernel"]
    for i in range(2):
        base, *experts = [{n: x[i] for n, x in t.items()} for t in models]
        near(out[i], merge(base, experts, method)["up.kernel"])


@pytest.mark.parametrize("shape", [(1, 2), (4, 2)])
@pytest.mark.parametrize("name", ["dare_linear", "della"])
def test_masks_do_not_depend_on_the_number_of_devices(name, shape):
    method = getattr(methods, name)(density=0.4)
    plain = merge(some(tree(0)), [some(tree(1))], method, key=KEY)
    base, expert = map(some, spread(AxisType.Auto, 1, shape))
    out = compiled(method, base, [expert])(base, [expert])
    for leaf in plain:
        dropped = plain[leaf] == base[leaf]
        np.testing.assert_array_equal(out[leaf] == base[leaf], dropped)
        np.testing.assert_allclose(out[leaf], plain[leaf], atol=2**-22)
        assert 0.2 < dropped.mean() < 0.8


def some(tree):
    return {n: tree[n] for n in ("h.0.q.kernel", "layers.mlp.kernel", "h.0.bias")}


@pytest.mark.parametrize("name", ["linear", "iso_c"])
def test_each_leaf_of_some_of_a_bucket_is_merged_once(name):
    """Whatever kinds of leaves the bucket has."""
    models = spread(AxisType.Auto)
    bucket = tuple(n for n, shape in SHAPES.items() if shape == (16, 24))

    def read(name):
        return models[0][name], tuple(model[name] for model in models[1:])

    some = {n: models[0][n] for n in bucket if n != "h.1.q.kernel"}
    method = getattr(methods, name)()
    found = list(stream(some, read, method, among=bucket))
    assert sorted(n for n, _ in found) == sorted(some)
    want = dict(stream(models[0], read, method))
    for (
        n,
        leaf,
    ) in found:  # other leaves are on the same device: the last bits may differ
        np.testing.assert_allclose(leaf, want[n], atol=2**-20)


@kinds
@pytest.mark.parametrize("name", ["linear", "iso_c"])
def test_slopes_go_through_a_merge_on_a_mesh(name, kind):
    """To the models, and to numbers of the method."""

    def size(weights, models):
        method = combine.chain(
            combine.stage(
                lambda d, w: d * w.reshape(-1, *[1] * (d.ndim - 1)), w=weights
            ),
            getattr(methods, name)(),
        )
        merged = merge(models[0], models[1:], method)
        return sum((x * jnp.sin(x)).sum() for x in jax.tree.leaves(merged))

    slope = jax.jit(jax.grad(size, (0, 1)))
    got = slope(jnp.arange(1.0, 4.0), spread(kind))
    want = slope(jnp.arange(1.0, 4.0), [tree(i) for i in range(4)])
    for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        bound = (
            400 * np.finfo(np.float32).eps * np.abs(y).max()
        )  # roundings: see `near`
        np.testing.assert_allclose(x, y, rtol=0, atol=bound)


@kinds
def test_other_numbers_compile_nothing_on_a_mesh(kind):
    models = spread(kind)
    step = jax.jit(lambda m, scale: merge(m[0], m[1:], methods.iso_c(scale)))
    step(models, 1.0)
    step(models, 0.5)
    assert step._cache_size() == 1
    merge(models[0], models[1:], methods.iso_c(1.0))
    before = merge_chunk._cache_size()
    merge(models[0], models[1:], methods.iso_c(0.5))
    assert merge_chunk._cache_size() == before > 0


@pytest.mark.parametrize("name", ["linear", "iso_c"])
def test_leaves_of_one_shape_may_lie_differently(name):
    """Squares too, whose canonical view has the leaf's own shape."""
    mesh = mesh_of(AxisType.Auto)
    along = {"up": P("x", "y"), "down": P("y", "x"), "gate": P(None, ("x", "y"))}
    tree = {
        f"h.{i}.{n}.kernel": jax.ShapeDtypeStruct(
            (32, 32), jnp.float32, sharding=NamedSharding(mesh, spec)
        )
        for i in range(2)
        for n, spec in along.items()
    }
    program = compiled(getattr(methods, name)(), tree, [tree] * 3)
    assert moves(program) <= ({"all-to-all"} if name == "iso_c" else set())
    for n, place in program.output_shardings.items():
        assert place.is_equivalent_to(tree[n].sharding, 2)


@kinds
@pytest.mark.parametrize("name", ["iso_c", pytest.param("mda", marks=pytest.mark.slow)])
def test_matrices_go_whole_to_devices(name, kind):
    """Seven matrices on eight devices: parts change places, none is gathered."""
    base, *experts = ({n: x for n, x in t.items() if n != OTHER} for t in spread(kind))
    method = getattr(methods, name)()
    program = compiled(method, base, experts)
    assert "all-to-all" in moves(program) and "all-gather" not in moves(program)
    out = program(base, experts)
    assert lie_as(out, base) and lie_as(merge(base, experts, method), base)
    plain = merge(tree(0), [tree(i) for i in (1, 2, 3)], method)
    near(out, {leaf: plain[leaf] for leaf in out})


@pytest.mark.slow
@kinds
@pytest.mark.parametrize("name", methods.names)
def test_every_method_gives_what_it_gives_on_one_device(name, kind):
    count = methods.experts_of(name) or 3
    method = methods.wudi(steps=5) if name == "wudi" else getattr(methods, name)()
    base, *experts = (
        {n: x if i == 0 else tree(0)[n] + 0.1 * x for n, x in tree(i).items()}
        for i in range(count + 1)
    )
    there = [jax.device_put(t, places(kind)) for t in (base, *experts)]
    out = compiled(method, there[0], there[1:])(there[0], there[1:])
    assert lie_as(out, there[0])
    near(out, merge(base, experts, method, key=KEY))
