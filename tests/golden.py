"""Outputs of fusion-bench 0.2.33 on one small model, to compare with."""

from pathlib import Path

import numpy as np


FILE = Path(__file__).parent / "methods/golden/fusion_bench_T3.npz"


def golden(case, dtype, only=""):
    """Base, stacked experts and expected weights, of the names that contain `only`."""
    with np.load(FILE) as file:
        found = [
            {
                key.removeprefix(f"{part}/"): file[key].astype(dtype)
                for key in file
                if key.startswith(f"{part}/") and only in key
            }
            for part in ("base", "experts", case)
        ]
    assert all(tree.keys() == found[0].keys() for tree in found)
    return found


def assert_golden(actual, expected, base, *, condition):
    """Allow eight roundings, amplified by the condition number of the merged deltas.

    A polar factor of a matrix of condition number c is perturbed by about c roundings
    of its largest entry; one more rounding comes with adding the delta to the base.
    """
    for name, want in expected.items():
        delta, eps = want - base[name], np.finfo(want.dtype).eps
        bound = eps * (8 * condition * np.abs(delta).max() + np.abs(want).max())
        worst = np.abs(np.asarray(actual[name]) - want).max()
        assert worst <= bound, (name, worst, bound)
