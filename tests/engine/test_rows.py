"""Some rows of a weight at a time give what the whole gives, where a method allows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid

from mda_jax import (
    Layout,
    Role,
    chain,
    merge,
    methods,
    primitives as p,
    stage,
    stream,
)
from mda_jax.combine import by_rows, entrywise
from mda_jax.engine import Place
from mda_jax.methods._sce import energy_shares, fused


KEY = jax.random.key(4)
ROWS, WIDTH, MOST = 13, 6, 5
ALIKE = {
    "dare_linear": methods.dare_linear(),
    "dare_ties as kept": methods.dare_ties(rescale=p.as_kept),
    "della": methods.della(0.5, 0.3),
    "della_linear": methods.della_linear(0.5, 0.3),
    "nuslerp by rows": methods.nuslerp(vectors=p.rows),
    "model_stock by rows": methods.model_stock(vectors=p.rows),
    "ram_plus": methods.ram_plus(0.25, 0.5, 5.0),
    "task_arithmetic": methods.task_arithmetic(),
}
NEAR = {
    "slerp": methods.slerp(0.3),
    "nuslerp": methods.nuslerp([1.0, 3.0]),
    "nuslerp by columns": methods.nuslerp(vectors=p.columns),
    "multislerp": methods.multislerp([1.0, 2.0, 4.0]),
    "karcher": methods.karcher(),
    "model_stock": methods.model_stock(),
    "dare_linear by norm": methods.dare_linear(rescale=p.by_l1_norm),
    "della by norm": methods.della(0.5, 0.3, rescale=p.by_l1_norm),
    "sce": fused(energy_shares, p.sign_of_sum),
}


def weights(name):
    k = methods.experts_of(name.split()[0]) or 3
    draws = [grid(i, (ROWS, WIDTH)) for i in range(k + 1)]
    draws[-1][::2] += 1  # rows, and sums over them, differ
    return draws[0], draws[1:]


def in_pieces(method, base, experts, most):
    starts = {f"rows {i}": i for i in range(0, ROWS, most)}
    leaves = {
        n: jax.ShapeDtypeStruct(base[i : i + most].shape, base.dtype)
        for n, i in starts.items()
    }

    def read(label):
        part = slice(starts[label], starts[label] + most)
        return base[part], [expert[part] for expert in experts]

    places = {label: Place("fc.weight", i) for label, i in starts.items()}
    layout = Layout(Role.MATRIX, out=(0,), into=(1,))
    options = {"key": KEY, "batch": 1, "places": places, "layout": {".*": layout}}
    merged = stream(leaves, read, by_rows(method), **options)
    return np.concatenate([np.asarray(rows) for _, rows in merged])


def at_once(method, base, experts):
    trees = [{"fc.weight": x} for x in experts]
    return merge({"fc.weight": base}, trees, method, key=KEY)["fc.weight"]


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("most", [1, MOST])
def test_what_sums_nothing_up_is_the_same_to_the_bit(name, most):
    base, experts = weights(name)
    want = at_once(ALIKE[name], base, experts)
    got = in_pieces(ALIKE[name], base, experts, most)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("name", NEAR)
def test_what_sums_up_is_the_same_but_for_roundings(name):
    base, experts = weights(name)
    want = at_once(NEAR[name], base, experts)
    got = in_pieces(NEAR[name], base, experts, MOST)
    # sums of 78 terms in another order; an error of a cosine is amplified by 10 at most
    bound = 10 * np.sqrt(ROWS * WIDTH) * np.finfo(np.float32).eps
    np.testing.assert_allclose(got, want, rtol=0, atol=bound * np.abs(want).max())


def test_what_is_not_known_to_allow_it_is_not_cut():
    for method in (methods.tsv(), methods.arcee_fusion(), methods.sce(0.5)):
        assert by_rows(method) is None
    doubled = entrywise(p.scaled, by=2.0)
    dare = methods.dare_linear()
    assert by_rows(chain(dare, doubled)) and by_rows(chain(doubled, doubled))
    assert by_rows(chain(dare, stage(p.scaled, by=2.0))) is None
    assert by_rows(chain(doubled, dare)) is None


def test_a_survey_that_finds_nothing_reads_one_piece():
    base, experts = weights("dare_linear")
    read = []

    def reader(label):
        read.append(label)
        return base, experts

    leaves = {n: jax.ShapeDtypeStruct(base.shape, base.dtype) for n in "abc"}
    list(stream(leaves, reader, by_rows(methods.dare_linear()), key=KEY))
    assert sorted(read) == ["a", *"abc"]


def test_surveys_wait_for_one_leaf_before_the_next(monkeypatch):
    waited = []
    block = jax.block_until_ready
    monkeypatch.setattr(
        jax, "block_until_ready", lambda x: waited.append(x) or block(x)
    )
    base, experts = weights("slerp")
    in_pieces(methods.slerp(), base, experts, 1)
    assert len(waited) == ROWS
    assert jnp.isfinite(waited[-1]).all()
