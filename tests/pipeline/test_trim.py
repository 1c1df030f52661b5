"""Trimming from files keeps what `primitives.keep_count` keeps in memory."""

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import grid
from hypothesis import given, settings, strategies as st

from mda_jax import primitives as p
from mda_jax.pipeline import bits
from mda_jax.pipeline.trim import KEEP_ALL, find_cut


@settings(deadline=None, max_examples=200)
@given(
    st.lists(st.integers(-3, 3), min_size=1, max_size=40),
    st.floats(0.001, 1.0),
    st.integers(1, 7),
)
def test_is_the_definition(values, density, step):
    delta = np.array(values, np.float32)
    keep = max(1, int(density * delta.size))
    order = sorted(range(delta.size), key=lambda i: (-abs(delta[i]), i))
    before, bits.BLOCK = bits.BLOCK, step
    cut = find_cut(delta.__getitem__, delta.size, density, rescale=False)
    bits.BLOCK = before
    parts = [cut.keeps(delta[i : i + step], i) for i in range(0, delta.size, step)]
    assert np.flatnonzero(np.concatenate(parts)).tolist() == sorted(order[:keep])


@pytest.mark.parametrize("density", [0.01, 0.3, 0.5, 0.99])
def test_agrees_with_the_engine(density):
    delta = grid(0, (3, 500))  # many equal magnitudes
    count = max(1, int(density * 500))
    expected = np.asarray(p.keep_count(jnp.asarray(delta), count=count))
    for row, want in zip(delta, expected, strict=True):
        cut = find_cut(row.__getitem__, row.size, density, rescale=False)
        np.testing.assert_array_equal(np.where(cut.keeps(row, 0), row, 0), want)


@pytest.mark.parametrize("density", [0.01, 0.3, 0.9])
@pytest.mark.parametrize("outliers", [0.002, 0.1, 0.5])
@pytest.mark.parametrize("rescale", [True, False])
def test_a_band_agrees_with_the_engine(density, outliers, rescale):
    delta = grid(0, (3, 500))  # many equal magnitudes
    numbers = {"density": density, "outliers": outliers}
    expected = np.asarray(p.keep_band(jnp.asarray(delta), **numbers))
    for row, want in zip(delta, expected, strict=True):
        cut = find_cut(row.__getitem__, row.size, **numbers, rescale=rescale)
        parts = [cut.keeps(row[i : i + 99], i) for i in range(0, row.size, 99)]
        got = np.where(np.concatenate(parts), row, 0)
        np.testing.assert_array_equal(got, want)
        ratio = np.abs(row).sum() / np.abs(want).sum() if rescale else 1
        np.testing.assert_allclose(cut.factor, ratio, rtol=1e-6)


def test_density_one_keeps_all():
    assert find_cut(np.ones(3).__getitem__, 3, 1.0, rescale=True) == KEEP_ALL


def test_rescaling_restores_the_l1_norm():
    delta = grid(1, (400,))
    cut = find_cut(delta.__getitem__, delta.size, 0.2, rescale=True)
    kept = np.where(cut.keeps(delta, 0), delta, 0) * cut.factor
    np.testing.assert_allclose(np.abs(kept).sum(), np.abs(delta).sum(), rtol=1e-6)
    zero = find_cut(np.zeros(10, np.float32).__getitem__, 10, 0.2, rescale=True)
    assert zero.factor == 1
