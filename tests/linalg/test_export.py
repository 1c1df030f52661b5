"""What every public function owes: CPU, CUDA, TPU; `jit`, `shard_map`; bfloat16."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec as P
from linalg.spectra import gaussian

from mda_jax import linalg


DEVICES = 8
MESH = jax.make_mesh((DEVICES,), ("x",), axis_types=(AxisType.Auto,))


def gradient(f):
    return jax.grad(lambda *args: sum((y**2).sum() for y in jax.tree.leaves(f(*args))))


def top(x):
    return linalg.top_singular_subspaces(x, 3)


LONG, SQUARE = (12, 5), (5, 5)
SHAPES = {  # of the arguments
    linalg.polar: (LONG,),
    linalg.polar_gram: (LONG,),
    linalg.polar_polynomial: (LONG,),
    linalg.polar_svd: (LONG,),
    linalg.nuclear_norm: (LONG,),
    linalg.nearest_simplex_frame: (LONG,),
    linalg.svd: (LONG,),
    top: (LONG,),
    linalg.inverse_sqrt: (SQUARE,),
    linalg.exp_rotation: (SQUARE,),
    linalg.cayley_rotation: (SQUARE,),
    linalg.low_rank_rotation: ((2, 5, 3),),
    linalg.procrustes: (LONG, LONG),
    linalg.procrustes_rotation: (LONG, LONG),
    linalg.solve_positive: (SQUARE, SQUARE),
}
every_function = pytest.mark.parametrize("f", SHAPES, ids=lambda f: f.__name__)


def arguments(f, dtype=np.float32):
    """Two matrices for every device; square ones are positive definite."""
    draws = [gaussian(i, DEVICES, 2, *shape) for i, shape in enumerate(SHAPES[f])]
    x = draws[0]
    if SHAPES[f][0] == SQUARE:
        draws[0] = x @ x.swapaxes(-1, -2) + np.eye(len(SQUARE) + 3, dtype=x.dtype)
    return [jnp.asarray(each).astype(dtype) for each in draws]


def split(f):
    """One part of the first axis on each device; with the default `check_vma`."""
    return jax.shard_map(f, mesh=MESH, in_specs=P("x"), out_specs=P("x"))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@every_function
def test_exports_with_its_gradient_also_inside_shard_map(f, platform):
    both = [arguments(f), arguments(f, jnp.bfloat16)]

    def program(both):
        results = ((g(*x), split(g)(*x)) for x in both for g in (f, gradient(f)))
        return jax.tree.leaves(tuple(results))

    found = jax.export.export(jax.jit(program), platforms=[platform])(both)
    half = len(found.out_avals) // 2
    types = ["float32"] * half + ["bfloat16"] * half
    assert [str(each.dtype) for each in found.out_avals] == types


@pytest.mark.parametrize(
    "f",
    [
        pytest.param(f, marks=[] if f in (linalg.polar, top) else pytest.mark.slow)
        for f in SHAPES
    ],
    ids=lambda f: f.__name__,
)
def test_inside_shard_map_and_in_bfloat16_it_computes_the_same(f):
    x = arguments(f, jnp.bfloat16)
    wide = [each.astype(jnp.float32) for each in x]
    plain = jax.jit(f)(*wide)
    # A product of 2 matrices may be summed otherwise than one of 16: a few roundings.
    close = partial(np.testing.assert_allclose, rtol=0, atol=2e-5)
    jax.tree.map(close, jax.jit(split(f))(*wide), plain)
    rounded = jax.tree.map(lambda y: y.astype(jnp.bfloat16), plain)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(f)(*x), rounded)


@every_function
def test_only_the_yardsticks_call_for_a_decomposition_into_singular_values(f):
    text = str(jax.make_jaxpr(f)(*arguments(f)))
    assert (" svd[" in text) == (f in (linalg.polar_svd, linalg.svd))


def test_a_frame_exports():
    frame = jax.jit(lambda: linalg.simplex_etf(4))
    assert jax.export.export(frame, platforms=["tpu"])()


def test_every_public_name_is_exported_here():
    tested = {each.__name__ for each in SHAPES} | {"simplex_etf"}
    tested |= {"top_singular_subspaces"}
    public = {n for n, each in vars(linalg).items() if callable(each)}
    assert public - {"Subspaces", "SVD"} == tested - {"top"}
