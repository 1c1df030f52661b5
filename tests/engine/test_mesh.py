"""On eight devices: where results lie, what moves, and what comes out."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from mda_jax import merge, methods


KEY = jax.random.key(0)
SHAPES = {f"h.{i}.{n}.kernel": s for i in range(3) for n, s in (("q", (16, 24)),)}
SHAPES |= {"h.0.o.kernel": (16, 24), "attn.query.kernel": (16, 8, 4), "h.0.bias": (24,)}
SHAPES |= {"layers.mlp.kernel": (3, 16, 24), "scale": ()}
OTHER = "h.0.o.kernel"  # as wide as others, hence in their bucket; lies the other way
SPECS = {2: P("x", "y"), 3: P("x", "y"), 1: P("y"), 0: P()}
MOVES = "all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter"
kinds = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)


def tree(seed):
    return {n: jnp.asarray(grid(seed, s)) for n, s in SHAPES.items()}


def places(kind, shape=(4, 2)):
    mesh = jax.make_mesh(shape, ("x", "y"), axis_types=(kind, kind))
    specs = {n: SPECS[len(s)] for n, s in SHAPES.items()}
    specs |= {OTHER: P("y", "x"), "layers.mlp.kernel": P(None, "x", "y")}
    return {n: NamedSharding(mesh, specs[n]) for n in SHAPES}


def spread(kind, count=3):
    at = places(kind)
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


@kinds
@pytest.mark.parametrize("name", ["linear", "dare_linear"])
def test_entry_by_entry_nothing_moves(name, kind):
    base, *experts = spread(kind)
    method = getattr(methods, name)()
    program = compiled(method, base, experts)
    assert not moves(program)
    out = program(base, experts)
    assert lie_as(out, base)
    plain = merge(tree(0), [tree(i) for i in (1, 2, 3)], method, key=KEY)
    for leaf in SHAPES:  # the last bit may differ where a product is fused with a sum
        np.testing.assert_allclose(out[leaf], plain[leaf], atol=2**-22)


@pytest.mark.parametrize("name", ["linear", "iso_c"])
def test_leaves_of_one_shape_may_lie_differently(name):
    """Squares too, whose canonical view has the leaf's own shape."""
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(AxisType.Auto,) * 2)
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
    for leaf in out:  # 400 roundings, as in the contract test
        bound = 400 * np.finfo(np.float32).eps
        np.testing.assert_allclose(out[leaf], plain[leaf], atol=2 * bound)
