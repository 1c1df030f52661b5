"""Merges taken apart into what each expert adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mda_jax as mda
from mda_jax.adaptive import blocks, combined, task_vectors, task_wise


DRAW = np.random.default_rng(0)
SHAPES = {"dense": {"kernel": (6, 8), "bias": (8,)}, "norm": {"scale": (6,)}}


def tree(scale=1.0):
    def leaf(shape):
        return jnp.asarray(scale * DRAW.normal(size=shape), jnp.float32)

    return jax.tree.map(leaf, SHAPES, is_leaf=lambda x: isinstance(x, tuple))


BASE = tree()
EXPERTS = [jax.tree.map(jnp.add, BASE, tree(0.5)) for _ in range(3)]


def norm(x):
    return float(jnp.sqrt(sum((leaf**2).sum() for leaf in jax.tree.leaves(x))))


NAMES = ["ties", "ties_global", "consensus", "tsv", "iso_c", "mda", "mda_frame", "dls"]


@pytest.mark.parametrize("name", NAMES)
def test_blocks_sum_to_the_merge(name):
    method = getattr(mda.methods, name)()
    parts = blocks(BASE, EXPERTS, method)
    got = combined(BASE, parts, task_wise(3, 1.0))
    want = mda.merge(BASE, EXPERTS, method)
    gap = norm(jax.tree.map(jnp.subtract, got, want))
    # singular values between 0.5 and 5: derivatives of polar factors amplify by 10
    assert gap <= 10 * 32 * np.finfo(np.float32).eps * norm(want)
    assert all(norm(part) > 0.01 * norm(want) for part in parts)


def test_blocks_of_a_linear_merge_are_weighted_task_vectors():
    parts = blocks(BASE, EXPERTS, mda.methods.task_arithmetic(scale=0.3))
    for part, delta in zip(parts, task_vectors(BASE, EXPERTS), strict=True):
        gap = norm(jax.tree.map(lambda x, y: x - 0.3 * y, part, delta))
        assert gap <= 8 * np.finfo(np.float32).eps * norm(EXPERTS[0])


def test_a_block_is_what_more_of_its_expert_would_add():
    """Central differences in float32: steps of 1/64 leave about 1e-3."""
    method, step = mda.methods.mda(), 1 / 64
    part = blocks(BASE, EXPERTS, method)[1]

    def merged(weight):
        more = jax.tree.map(lambda b, e: b + weight * (e - b), BASE, EXPERTS[1])
        return mda.merge(BASE, [EXPERTS[0], more, EXPERTS[2]], method)

    slope = jax.tree.map(
        lambda x, y: (x - y) / (2 * step), merged(1 + step), merged(1 - step)
    )
    assert norm(jax.tree.map(jnp.subtract, slope, part)) <= 5e-3 * norm(part)


def test_what_is_no_float_has_a_block_of_zero():
    base = {"w": jnp.ones((3, 3), jnp.bfloat16), "step": jnp.int32(7)}
    experts = [{"w": 2 * base["w"], "step": jnp.int32(9)}]
    (part,) = blocks(base, experts, mda.methods.tsv())
    assert part["step"] == 0 and part["w"].dtype == jnp.float32
