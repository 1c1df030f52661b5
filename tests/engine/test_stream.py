from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid

from mda_jax import Role, merge, stage, stream
from mda_jax.methods import linear, multislerp, tatr, ties_global


SHAPES = {f"l{i}.weight": (4, 6) for i in range(5)}
SHAPES |= {"norm.weight": (6,), "q/kernel": (6, 2, 3), "embed.weight": (9, 4)}


def by_largest(d):
    return d / jnp.abs(d).max()


COUPLED = stage(by_largest)


def files(k=2):
    def one(seed):
        return {n: grid(seed, s) for n, s in SHAPES.items()} | {"step": np.int64(seed)}

    return one(99), [one(i) for i in range(k)]


def specs(tree):
    return {n: jax.ShapeDtypeStruct(np.shape(x), x.dtype) for n, x in tree.items()}


def test_is_merge_leaf_by_leaf():
    base, experts = files()
    read = []

    def reader(name):
        read.append(name)
        return base[name], [e[name] for e in experts]

    got = dict(stream(specs(base), reader, COUPLED, batch=2))
    assert got["step"] == base["step"] and sorted(read) == sorted(base)
    want = merge(base, experts, COUPLED)
    for name in SHAPES:
        np.testing.assert_array_equal(got[name], want[name])


def test_experts_may_come_in_one_array():
    base, experts = files()

    def reader(name):
        return base[name], np.stack([e[name] for e in experts])

    want = merge(base, experts, COUPLED)
    for name, leaf in stream(specs(base), reader, COUPLED):
        np.testing.assert_array_equal(leaf, want[name])
    short = {"norm.weight": base["norm.weight"]}
    bad = stream(specs(short), lambda name: (short[name], np.ones((2, 5))), COUPLED)
    with pytest.raises(
        ValueError, match=r"experts\['norm.weight'\] has shape \(2, 5\)"
    ):
        next(bad)


def test_a_leaf_comes_out_alike_whichever_others_are_merged():
    names = tuple(f"l{i}.weight" for i in range(11))
    draw = np.random.default_rng(0).standard_normal
    leaves = {n: draw((4, 48, 96)).astype(np.float32) for n in names}

    def merged(wanted):
        some = {n: leaves[n][0] for n in wanted}
        pairs = stream(
            specs(some),
            lambda n: (leaves[n][0], leaves[n][1:]),
            multislerp(),
            batch=4,
            among=names,
        )
        return {n: np.asarray(x) for n, x in pairs}

    every = merged(names)
    assert every.keys() == set(names)
    for wanted in (names[2:3], names[1::4], names[-1:]):
        found = merged(wanted)
        assert found.keys() == set(wanted)
        for n in wanted:
            np.testing.assert_array_equal(found[n], every[n])


@pytest.mark.parametrize("method", [ties_global(), tatr(0.5)], ids=["ties", "tatr"])
def test_reads_once_more_for_each_survey(method):
    base, experts = files()
    read = []

    def reader(name):
        read.append(name)
        return base[name], [e[name] for e in experts]

    merging = stream(specs(base), reader, method, batch=2)
    assert not read
    got = dict(merging)
    times = 1 + len(method.surveys)
    assert Counter(read) == {"step": 1, **dict.fromkeys(SHAPES, times)}
    want = merge(base, experts, method)
    for name in SHAPES:
        np.testing.assert_array_equal(got[name], want[name])


def test_holds_one_chunk_at_a_time():
    base, experts = files()
    ahead = 0

    def reader(name):
        nonlocal ahead
        ahead += 1
        assert ahead <= 2
        return base[name], [e[name] for e in experts]

    for _ in stream(specs(base), reader, linear(), batch=2):
        ahead -= 1


def test_merged_leaves_have_the_type_of_the_base():
    leaf = {"w": jax.ShapeDtypeStruct((3,), "bfloat16")}
    read = jnp.ones(3, jnp.bfloat16), [np.full(3, 2, np.float32)]
    ((name, got),) = stream(leaf, lambda _: read, linear())
    assert name == "w" and got.dtype == jnp.bfloat16 and (got == 2).all()


def test_layout_rules_apply():
    base, experts = files()

    def reader(name):
        return base[name], [e[name] for e in experts]

    roles = []

    def spy(d):
        roles.append(d.shape[1:])
        return d

    dict(stream(specs(base), reader, stage(spy), layout={".*weight": Role.VECTOR}))
    assert sorted(roles) == [(6,), (6, 6), (24,), (36,)]


@pytest.mark.parametrize(
    "read, text",
    [
        ((np.ones(3, np.float32), []), "`experts` is empty"),
        ((np.ones(2, np.float32), [np.ones(3, np.float32)]), r"base\['w'\] has shape"),
        (
            (np.ones(3, np.float32), [np.ones(2, np.float32)]),
            r"experts\[0\]\['w'\] has",
        ),
    ],
)
def test_what_is_read_must_be_what_was_announced(read, text):
    leaf = {"w": jax.ShapeDtypeStruct((3,), "float32")}
    with pytest.raises(ValueError, match=f"stream: {text}"):
        dict(stream(leaf, lambda _: read, linear()))


def unread(name):
    raise AssertionError(name)


def test_errors_come_before_anything_is_read():
    leaf = {"w": jax.ShapeDtypeStruct((3,), "float32")}
    with pytest.raises(ValueError, match="rule 'v' matches no weight"):
        stream(leaf, unread, linear(), layout={"v": Role.VECTOR})
    with pytest.raises(ValueError, match="leaves has no leaves"):
        stream({}, unread, linear())
