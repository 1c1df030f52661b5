"""What every merge method owes. A new file in mda_jax/methods is picked up here."""

import inspect
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid, near
from jax.sharding import AxisType, PartitionSpec as P

from mda_jax import WholeModel, merge, methods
from mda_jax.engine._kernel import merge_chunk


KEY = jax.random.key(0)
SHAPES = {
    "a/bias": (5,),
    "a/kernel": (6, 5),
    "b/kernel": (6, 5),
    "scale": (),
}
SMALL = {"bias": (5,), "kernel": (6, 5)}
SURVEYS = "pcb", "tatr", "ties_global"  # whose programs are long to compile
every_method = pytest.mark.parametrize("name", methods.names)


def count(name):
    return methods.experts_of(name) or 3


def trees(k, dtype=jnp.float32, shapes=SHAPES):
    def one(seed):
        return {n: jnp.asarray(grid(seed, s), dtype) for n, s in shapes.items()}

    return one(99), [one(i) for i in range(k)]


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def with_number(name, value):
    """The method with its scale, its weights or its first number set to `value`."""
    factory = getattr(methods, name)
    given = inspect.signature(factory).parameters
    numbers = [p.name for p in given.values() if isinstance(p.default, float)]
    if "scale" in given:
        return factory(scale=value)
    if "weights" in given:
        return factory(weights=value * jnp.array([1.0, 2.0, -0.5])[: count(name)])
    return factory(**{number: value for number in numbers[:1]})


def words(name):
    return " ".join(getattr(methods, name).__doc__.split())


def merged(name, base, experts):
    return merge(base, experts, getattr(methods, name)(), key=KEY)


@every_method
def test_defaults_work_and_the_docstring_is_complete(name):
    getattr(methods, name)()
    rows = f"[{methods.experts_of(name) or 'k'}, *d] ->"
    for section in ("Args:", "Returns:", "Raises:", "Paper:", rows, "https://"):
        assert section in words(name), f"{name}: the docstring lacks {section!r}"


@every_method
def test_is_made_of_module_level_functions(name):
    made = with_number(name, 0.5)
    assert "<locals>" not in repr(made) and "<lambda>" not in repr(made)
    assert repr(pickle.loads(pickle.dumps(made))) == repr(made)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(n, t, marks=pytest.mark.slow if n in SURVEYS else [])
        for n in methods.names
        for t in ("float32", "bfloat16")
    ],
)
def test_shape_dtype_and_finiteness(name, dtype):
    base, experts = trees(count(name), dtype)
    out = merged(name, base, experts)
    assert jax.tree.map(jnp.shape, out) == jax.tree.map(jnp.shape, base)
    assert all(x.dtype == dtype and jnp.isfinite(x).all() for x in jax.tree.leaves(out))


@every_method
def test_experts_equal_to_the_base_merge_to_the_base(name):
    base, _ = trees(0)
    same(merged(name, base, [base] * count(name)), base)


@every_method
def test_the_order_of_experts_does_not_matter(name):
    if "depends on the order of the experts" in words(name):
        pytest.skip("documented")
    base, experts = trees(count(name))
    near(merged(name, base, experts), merged(name, base, experts[::-1]))


@every_method
def test_scaling_every_delta_scales_the_result(name):
    if "Scaling every delta scales the result" not in words(name):
        pytest.skip("not promised")
    base, experts = trees(count(name))
    zero = jax.tree.map(jnp.zeros_like, base)
    once = merged(name, zero, experts)
    tiny = merged(name, zero, jax.tree.map(lambda x: x * 2.0**-20, experts))
    near(jax.tree.map(lambda x: x * 2.0**20, tiny), once)


@every_method
def test_a_weight_is_merged_alike_alone_and_in_company(name):
    if isinstance(getattr(methods, name)(), WholeModel):
        pytest.skip("sees every weight by definition")
    base, experts = trees(count(name))
    only = [{"b/kernel": t["b/kernel"]} for t in (base, *experts)]
    alone = merged(name, only[0], only[1:])["b/kernel"]
    near(alone, merged(name, base, experts)["b/kernel"])


@every_method
def test_numbers_change_without_recompiling(name):
    base, experts = trees(count(name))
    merge(base, experts, with_number(name, 0.1), key=KEY)
    before = merge_chunk._cache_size()
    for value in (0.2, 0.3):
        merge(base, experts, with_number(name, value), key=KEY)
    assert merge_chunk._cache_size() == before


@every_method
def test_under_jit_and_vmap_it_is_the_eager_result(name):
    base, experts = trees(count(name), shapes=SMALL)

    def swept(value):
        return merge(base, experts, with_number(name, value), key=KEY)

    many = jax.jit(jax.vmap(swept))(jnp.array([0.5, 1.0]))
    for i, value in enumerate((0.5, 1.0)):
        near(jax.tree.map(lambda x, i=i: x[i], many), swept(value))


LAYERS = 2
TORCH = {"q.weight": (6, 5), "q.bias": (6,), "norm.weight": (5,)}
TORCH = {f"h.{i}.{n}": s for i in range(LAYERS) for n, s in TORCH.items()}
TORCH |= {"cls_token": (1, 1, 5)}


def to_flax(tree):
    """The same weights, transposed, split into heads and scanned."""
    stacks = {n: [tree[f"h.{i}.{n}"] for i in range(LAYERS)] for n in NAMES}
    s = {n: jnp.stack(xs) for n, xs in stacks.items()}
    query = {
        "kernel": s["q.weight"].swapaxes(1, 2).reshape(LAYERS, 5, 3, 2),
        "bias": s["q.bias"].reshape(LAYERS, 3, 2),
    }
    layers = {"query": query, "norm": {"scale": s["norm.weight"]}}
    return {"layers": layers, "cls_token": tree["cls_token"]}


NAMES = sorted({name.split(".", 2)[2] for name in TORCH if name.startswith("h.")})


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in SURVEYS else [])
        for n in methods.names
        if "is random" not in words(n)
    ],
)
def test_commutes_with_layout(name):
    """But for draws, which belong to names, and names differ between layouts."""
    base, experts = trees(count(name), shapes=TORCH)
    torch = merged(name, base, experts)
    flax = merged(name, to_flax(base), [to_flax(t) for t in experts])
    near(to_flax(torch), flax)


def function_of(name):
    base, experts = trees(count(name), shapes=SMALL)
    return jax.jit(lambda b, e: merged(name, b, e)), base, experts


@every_method
def test_needs_no_singular_value_decomposition(name):
    f, base, experts = function_of(name)
    assert not re.search(r"\bsvd\b", str(f.trace(base, experts).jaxpr))


REPLICAS = 8
MESH = jax.make_mesh((REPLICAS,), ("replica",), axis_types=(AxisType.Auto,))


def replicated(name):
    """One base of float32 and bfloat16 leaves, and experts of which replicas differ."""
    base, experts = trees(count(name), shapes=SMALL)
    growing = 1 + jnp.arange(float(REPLICAS)) / REPLICAS

    def spread(x):
        return x[None] * growing.reshape(-1, *[1] * x.ndim)

    def both(tree):
        return tree | {f"h/{n}": x.astype(jnp.bfloat16) for n, x in tree.items()}

    return both(base), [both(jax.tree.map(spread, tree)) for tree in experts]


def of_each_replica(name):
    """The merge inside `shard_map`, with the default `check_vma`."""

    def one(base, experts):
        mine = jax.tree.map(lambda x: x[0], experts)
        return jax.tree.map(lambda x: x[None], merged(name, base, mine))

    specs = {"in_specs": (P(), P("replica")), "out_specs": P("replica")}
    return jax.shard_map(one, mesh=MESH, **specs)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n == "pcb" else [])
        for n in methods.names
    ],
)
def test_lowers_for_a_tpu(name):
    """As it is and in each replica, of float32 and bfloat16."""

    def program(base, experts):
        first = jax.tree.map(lambda x: x[0], experts)
        plain = merged(name, base, first)
        return plain, of_each_replica(name)(base, experts)

    export = jax.export.export(jax.jit(program), platforms=["tpu"])
    assert export(*replicated(name)).out_avals


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in ("ties", "tsv") else pytest.mark.slow)
        for n in methods.names
        if n != "pcb"
    ],
)
def test_each_replica_merges_as_if_alone(name):
    """But for `pcb`: rounding decides whether the entry at its threshold counts."""
    base, experts = replicated(name)
    found = jax.jit(of_each_replica(name))(base, experts)
    for i in range(REPLICAS):
        mine = jax.tree.map(lambda x, i=i: x[i], experts)
        near(jax.tree.map(lambda x, i=i: x[i], found), merged(name, base, mine))
