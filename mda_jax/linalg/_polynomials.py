"""Odd minimax polynomials of degree 5 whose composition tends to the sign function."""

import functools

import numpy as np


Quintic = tuple[float, float, float]  # a x + b x^3 + c x^5


CUSHION = 0.1
DIVIDE: Quintic = (0.0, 2.5, -1.5)  # moves [0, 0.81] towards 0 and [0.82, 1.15] to 1


@functools.cache
def sign_polynomials(lower: float) -> tuple[Quintic, ...]:
    """Quintics that together map `[lower, 1]` to `[0.99, 1.01]` and keep 0 at 0.

    Each is the best odd approximation of 1 on the interval that its predecessors
    leave, cut off at a tenth of its upper end: below that it is a straight line but
    for 15 %. The cut costs 8 % of the growth per step (3.9 against 4.2) and keeps
    large singular values from falling below 0.37 of the largest on the way, without
    which the iteration would not be backward stable (Nakatsukasa and Higham, 2012,
    https://doi.org/10.1137/110857544, Theorem 2.1).

    Args:
      lower: smallest singular value to bring to 1, in (0, 1).

    Returns:
      Coefficients `(a, b, c)` of each polynomial, in order of application.

    Paper:
      Amsel et al., The Polar Express, 2025, https://arxiv.org/abs/2505.16932,
      Sections 3 and 4. Differs: float32 or float64 instead of bfloat16, hence the
      larger cut, and each interval is only 0.01 % wider than the last one's image.
    """
    steps = []
    low, high = lower, 1.0
    while high - low > 0.02:
        high *= 1.0001
        (a, b, c), error = minimax_quintic(max(low, CUSHION * high), high)
        steps.append((a, b, c))
        low, high = low * (a + low**2 * (b + low**2 * c)), 1 + error
    return tuple(steps)


def minimax_quintic(low: float, high: float) -> tuple[Quintic, float]:
    """Best `a x + b x^3 + c x^5` for the constant 1, by Remez exchange.

    The error takes its extreme value with alternating sign at `low`, at the two
    stationary points of the polynomial and at `high`; each round solves for the
    coefficients at the last such points, then moves the inner two.

    Args:
      low: left end, in (0, high).
      high: right end.

    Returns:
      The coefficients, and the largest error on the interval.
    """
    inner = np.array([0.75, 0.25]) * low + np.array([0.25, 0.75]) * high
    signs = np.array([1.0, -1.0, 1.0, -1.0])
    for _ in range(30):
        x = np.array([low, *inner, high])
        a, b, c, error = np.linalg.solve(
            np.stack([x, x**3, x**5, signs], axis=1), np.ones(4)
        )
        root = np.sqrt(9 * b * b - 20 * a * c)
        inner = np.sqrt(np.array([-3 * b - root, -3 * b + root]) / (10 * c))
    return (float(a), float(b), float(c)), float(error)
