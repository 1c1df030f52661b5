"""MDA's frame form: the frame it aligns to, and what remains without the frame."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from methods.spectral import merged

from mda_jax import Role, chain, primitives as p, stage
from mda_jax.linalg import top_singular_subspaces
from mda_jax.methods import mda_frame, tsv


def oracle(deltas):
    """Section by section with an explicit simplex, from the bases of `linalg`."""
    k, m, n = deltas.shape
    parts = top_singular_subspaces(jnp.asarray(deltas), min(m, n) // k)
    left, core, right = (np.asarray(x) for x in parts)
    size = left.shape[0] * left.shape[2]
    simplex = np.sqrt(size / (size - 1)) * (np.eye(size) - np.ones((size, size)) / size)
    a, _, bt = np.linalg.svd(np.hstack(left) @ simplex.T, full_matrices=False)
    frame = (a[:, : size - 1] @ bt[: size - 1]) @ simplex  # the simplex has rank K - 1
    u, _, vt = np.linalg.svd(np.hstack(right), full_matrices=False)
    cores = np.zeros((size, size))
    for t, c in enumerate(core):
        cores[t * len(c) : (t + 1) * len(c), t * len(c) : (t + 1) * len(c)] = c
    return frame @ cores @ (u @ vt).T


@pytest.mark.parametrize("k, shape", [(2, (7, 5)), (3, (5, 7))])
def test_is_the_frame_reconstruction(k, shape):
    deltas = np.random.default_rng(k).normal(size=(k, *shape))
    with jax.enable_x64(True):
        got, want = merged(mda_frame(), deltas), oracle(deltas)
    # condition numbers of the concatenated bases are below 100
    assert (
        np.abs(got - want).max() <= 8 * 100 * np.finfo(float).eps * np.abs(want).max()
    )


def test_the_left_directions_become_a_simplex():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(9, 6)), jnp.float32)
    frame = np.asarray(p.simplex_aligned(x), np.float64)
    want = np.where(np.eye(6), 1, -1 / 5)
    assert np.abs(frame.T @ frame - want).max() <= 100 * np.finfo(np.float32).eps


def test_without_the_frame_it_is_tsv():
    deltas = np.random.default_rng(1).normal(size=(3, 5, 7)).astype(np.float32)
    off = chain(
        stage(p.recombined, align_left=Partial(p.orthonormal)), stage(p.scaled, by=1.0)
    )
    np.testing.assert_array_equal(merged(off, deltas), merged(tsv(), deltas))
    assert np.abs(merged(mda_frame(), deltas) - merged(tsv(), deltas)).max() > 0.1


def test_one_expert_changes_by_one_over_root_k():
    """For equal singular values: |E - I|_F / |I|_F of the simplex E of K vertices."""
    size = 6
    q = np.linalg.qr(np.random.default_rng(2).normal(size=(size, size)))[0]
    got = merged(mda_frame(), q[None].astype(np.float32))
    stretch = (size / (size - 1)) ** 0.5 - 1
    want = (((size - 1) * stretch**2 + 1) / size) ** 0.5
    change = np.linalg.norm(got - q) / np.linalg.norm(q)
    assert abs(change - want) <= 100 * np.finfo(np.float32).eps
    assert abs(change - size**-0.5) <= 0.01


def test_one_direction_has_no_frame():
    column = np.asarray([[[1.0], [2.0], [-2.0]]], np.float32)
    got = merged(mda_frame(), column)
    assert np.abs(got - column[0]).max() <= 8 * 2 * np.finfo(np.float32).eps


def test_other_leaves_take_the_mean():
    d = np.random.default_rng(3).normal(size=(3, 4, 6)).astype(np.float32)
    got = merged(mda_frame(), d, role=Role.EMBEDDING)
    assert np.abs(got - d.mean(0)).max() <= 4 * np.finfo(np.float32).eps


def test_the_rank_is_a_function_of_the_weight():
    deltas = np.random.default_rng(4).normal(size=(2, 6, 8)).astype(np.float32)
    got = merged(mda_frame(rank=lambda d: 1), deltas)
    assert np.linalg.matrix_rank(got, tol=1e-4) <= 2
    own = mda_frame(rank=lambda d: max(1, min(d.shape[1:]) // len(d)))
    np.testing.assert_array_equal(merged(own, deltas), merged(mda_frame(), deltas))


def test_a_rank_by_energy_leaves_out_weak_directions():
    """Spectra 4, 2, 1: 76 % of the energy is in the first direction."""
    draw = np.random.default_rng(5)
    u, v = (np.linalg.qr(draw.normal(size=(2, 9, 3)))[0] for _ in range(2))
    deltas = ((u * np.array([4.0, 2.0, 1.0])) @ v.swapaxes(1, 2)).astype(np.float32)
    # six vertices of a frame span five directions
    for share, rank in ((0.7, 2), (0.9, 4), (1.0, 5)):
        energy = Partial(p.leading_energy, share=share)
        few = mda_frame(rank=lambda d: 3, spectrum=energy)
        assert np.linalg.matrix_rank(merged(few, deltas), tol=1e-3) == rank


def test_an_isotropic_spectrum_has_one_strength():
    """Of orthonormal directions; a simplex frame has them but for one."""
    deltas = np.random.default_rng(6).normal(size=(2, 12, 12)).astype(np.float32)
    flat = mda_frame(rank=lambda d: 3, spectrum=p.flat_cores)
    strengths = np.linalg.svd(merged(flat, deltas), compute_uv=False)
    assert np.ptp(strengths[:5]) <= 1e-4 * strengths[0]
    assert (strengths[5:] <= 1e-4 * strengths[0]).all()


def test_both_sides_can_meet_a_frame():
    deltas = np.random.default_rng(7).normal(size=(3, 9, 7)).astype(np.float32)
    left, core, right = top_singular_subspaces(jnp.asarray(deltas), 2)
    u, v = p.on_one_frame(left), p.on_one_frame(right)
    want = jnp.einsum("kmr,krs,kns->mn", u, core, v, precision="highest")
    got = merged(mda_frame(right=p.on_one_frame), deltas)
    assert np.abs(got - want).max() <= 100 * np.finfo(np.float32).eps
    assert np.abs(got - merged(mda_frame(), deltas)).max() > 0.01
