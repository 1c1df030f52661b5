import zlib

import jax
import numpy as np

from mda_jax import Role, trees


def leaves(**shapes):
    return {
        name: jax.ShapeDtypeStruct(shape, dtype)
        for name, (shape, dtype) in shapes.items()
    }


TREE = leaves(
    **{
        "q.weight": ((8, 4), "float32"),
        "k/kernel": ((4, 8), "float32"),
        "heads/query/kernel": ((4, 2, 4), "float32"),
        "half.weight": ((8, 4), "bfloat16"),
        "norm.weight": ((8,), "float32"),
        "query/bias": ((2, 4), "float32"),
        "wte.weight": ((8, 4), "float32"),
        "step": ((), "int32"),
        "empty.weight": ((0, 4), "float32"),
    }
)


def test_leaves_of_one_view_shape_role_and_dtype_share_a_bucket():
    found = trees.buckets(TREE, trees.layouts(TREE))
    assert [(b.names, b.shape, b.role) for b in found] == [
        (("q.weight", "k/kernel", "heads/query/kernel"), (1, 8, 4), Role.MATRIX),
        (("half.weight",), (1, 8, 4), Role.MATRIX),
        (("norm.weight", "query/bias"), (1, 8), Role.VECTOR),
        (("wte.weight",), (1, 8, 4), Role.EMBEDDING),
    ]
    assert found[1].dtype == np.dtype("bfloat16")


def test_every_leaf_is_accounted_for_once():
    plan = trees.layouts(TREE)
    found = trees.coverage(TREE, plan)
    assert found["copied from the base"] == ("step", "empty.weight")
    names = [name for rule in found.values() for name in rule]
    assert sorted(names) == sorted(TREE)
    merged = {name for bucket in trees.buckets(TREE, plan) for name in bucket.names}
    assert merged == set(TREE) - set(found["copied from the base"])


def test_a_seed_depends_on_the_name_alone():
    assert trees.seed("a/b") == zlib.crc32(b"a/b")
