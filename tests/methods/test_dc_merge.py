"""DC-Merge against its algorithm in NumPy's SVD, and its known cases."""

import jax
import numpy as np
import pytest
from methods.spectral import merged, near, polar

from mda_jax.methods import dc_merge, tsv


def oracle(deltas, density):
    """The authors' steps, with unpadded buffers."""
    k, rank = len(deltas), min(deltas.shape[1:]) // len(deltas)
    parts = [np.linalg.svd(d, full_matrices=False) for d in deltas]
    parts = [(u[:, :rank], s[:rank], vt[:rank]) for u, s, vt in parts]
    u = polar(np.hstack([part[0] for part in parts]))
    v = polar(np.vstack([part[2] for part in parts]))
    coordinates = np.stack([u.T @ (a * s) @ b @ v.T for a, s, b in parts])
    for each in coordinates:
        count = max(1, int(density * each.size))
        each[np.abs(each) < np.sort(np.abs(each), axis=None)[-count]] = 0
    sign = np.sign(coordinates.sum(0))
    agree = (np.sign(coordinates) == sign) & (coordinates != 0)
    merged = (coordinates * agree).sum(0) / np.maximum(agree.sum(0), 1)
    return u @ (merged * np.kron(np.eye(k), np.ones((rank, rank)))) @ v


@pytest.mark.parametrize("k, shape", [(1, (6, 6)), (2, (9, 7)), (3, (7, 10))])
@pytest.mark.parametrize("density", [0.001, 0.3, 1.0])
def test_is_the_algorithm_in_float64(k, shape, density):
    deltas = np.random.default_rng(k).normal(size=(k, *shape))
    with jax.enable_x64(True):
        got = merged(dc_merge(density=density), deltas)
        # singular gaps and bases of these inputs have condition numbers below 100
        near(got, oracle(deltas, density), roundings=8 * 100)


def test_orthogonal_experts_are_added_like_tsv():
    blocks = np.zeros((2, 6, 5), np.float32)
    draw = np.random.default_rng(3).normal(size=(2, 3, 2))
    blocks[0, :3, :2], blocks[1, 3:, 2:4] = draw
    got = merged(dc_merge(density=1.0), blocks)
    near(got, merged(tsv(), blocks), roundings=8 * 50)


def test_the_fraction_is_checked():
    with pytest.raises(ValueError, match="not a percentage"):
        dc_merge(density=20)
