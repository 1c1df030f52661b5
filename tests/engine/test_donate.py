"""What is donated is gone, what is still needed is not."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

from mda_jax import engine, merge, methods


SHAPES = {"h.0.up.kernel": (4, 8), "h.1.up.kernel": (4, 8), "scale": (8,)}


def tree(seed):
    return {n: jnp.asarray(grid(seed, shape)) for n, shape in SHAPES.items()}


def models():
    return tree(0), [tree(1), tree(2)]


def deleted(tree):
    return {x.is_deleted() for x in jax.tree.leaves(tree)}


@pytest.mark.parametrize("name", ["linear", "iso_c", "ties_global"])
def test_all_that_was_read_is_deleted(name):
    method = getattr(methods, name)()
    (base, experts), want = models(), merge(*models(), method)
    out = merge(base, experts, method, donate=True)
    assert deleted((base, experts)) == {True}
    jax.tree.map(np.testing.assert_array_equal, out, want)


def test_each_array_goes_when_it_was_read(monkeypatch):
    """The first leaves are gone before the last are read."""
    base, experts = models()
    gone, seen = [], engine._stream._seen

    def watched(job, name, read):
        gone.append(sum(x.is_deleted() for x in jax.tree.leaves((base, experts))))
        return seen(job, name, read)

    monkeypatch.setattr(engine._stream, "_seen", watched)
    merge(base, experts, methods.iso_c(), batch=1, donate=True)
    assert gone == [0, 3, 6]


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_arrays_on_a_mesh_are_deleted(kind):
    mesh = jax.make_mesh((4, 2), ("x", "y"), axis_types=(kind, kind))
    base, experts = jax.device_put(models(), NamedSharding(mesh, P("x")))
    out = merge(base, experts, methods.linear(), donate=True)
    assert deleted((base, experts)) == {True} and deleted(out) == {False}


def test_what_shares_memory_is_read_everywhere_first():
    """Tied leaves, an expert that is the base, and a leaf put where it already was."""
    tied = jnp.asarray(grid(1, (4, 8)))
    again = jax.device_put(tied, tied.device)
    assert again is not tied
    base = {"wte.embedding": tied, "h.0.up.kernel": again, "head.kernel": tied}
    expert = jax.tree.map(lambda x: x + 1, base)
    want = merge(base, [base, expert], methods.linear())
    out = merge(base, [base, expert], methods.linear(), batch=1, donate=True)
    jax.tree.map(np.testing.assert_array_equal, out, want)
    assert deleted((base, expert)) == {True}


def test_what_is_given_back_or_belongs_to_others_stays():
    """Integers of the base are those of the result; `aux` was not donated."""
    base, experts = models()
    steps = jnp.arange(3)
    noise = tree(5)
    trees_ = [{**t, "steps": steps + i} for i, t in enumerate((base, *experts))]
    aux = {**jax.tree.map(lambda x: x, noise), "steps": None}
    out = merge(trees_[0], trees_[1:], methods.linear(), aux=aux, donate=True)
    assert out["steps"] is trees_[0]["steps"]
    np.testing.assert_array_equal(out["steps"], steps)
    assert deleted(trees_[1:]) == {True} and deleted(noise) == {False}


def test_arrays_of_numpy_are_left_alone():
    base, experts = jax.tree.map(np.asarray, models())
    out = merge(base, experts, methods.linear(), donate=True)
    np.testing.assert_array_equal(base["scale"], grid(0, (8,)))
    assert out["scale"].shape == (8,)


def test_in_jit_it_is_for_jit_to_donate():
    with pytest.raises(ValueError, match="give donate_argnums to jit"):
        jax.jit(partial(merge, method=methods.linear(), donate=True))(*models())


def test_what_was_given_away_is_named():
    base, experts = models()
    merge(base, experts, methods.linear(), donate=True)
    with pytest.raises(ValueError, match=r"base\['h.0.up.kernel'\] has been deleted"):
        merge(base, experts, methods.linear())
    with pytest.raises(ValueError, match=r"experts\[0\]\['h.0.up.kernel'\] has been"):
        merge(tree(0), experts, methods.linear())


def test_a_wrong_call_deletes_nothing():
    base, experts = models()
    with pytest.raises(ValueError, match="batch"):
        merge(base, experts, methods.linear(), batch=0, donate=True)
    assert deleted((base, experts)) == {False}


@pytest.mark.parametrize("spec", [None, P("x")], ids=str)
@pytest.mark.parametrize("name", ["linear", "iso_c"])
def test_under_jit_the_result_takes_the_place_of_the_base(name, spec):
    base, experts = models()
    if spec:
        mesh = jax.make_mesh((8,), ("x",), axis_types=(AxisType.Auto,))
        shared = {n: P("x") if n == "scale" else P(None, "x") for n in SHAPES}
        places = {n: NamedSharding(mesh, spec) for n, spec in shared.items()}
        base, *experts = (jax.device_put(x, places) for x in (base, *experts))
    f = jax.jit(lambda b, e: merge(b, e, getattr(methods, name)()), donate_argnums=0)
    memory = f.lower(base, experts).compile().memory_analysis()
    devices = 8 if spec else 1
    assert memory.alias_size_in_bytes == 4 * (2 * 4 * 8 + 8) / devices
    f(base, experts)
    assert deleted(base) == {True}
