"""Oracles of sparsified and elected deltas, one entry at a time in float64."""

import jax
import numpy as np


def drawn(key, d):
    """The draws of every expert, in the first stage of a chain under this key."""
    key = jax.random.fold_in(key, 0)
    keys = [jax.random.fold_in(key, expert) for expert in range(len(d))]
    if d.ndim < 3:
        return [np.asarray(jax.random.uniform(key, d.shape[1:])) for key in keys]
    size, rows = d[0, 0].size, range(d.shape[1])
    return [
        np.reshape(
            [jax.random.uniform(jax.random.fold_in(key, row), (size,)) for row in rows],
            d.shape[1:],
        )
        for key in keys
    ]


def pruned(d, key, density, epsilon):
    """Ranks of magnitudes in a row decide the chance; who survives is divided by it."""
    out = np.zeros(d.shape)
    for expert, (row, draws) in enumerate(zip(d, drawn(key, d), strict=True)):
        lines = np.atleast_2d(row), np.atleast_2d(draws), np.atleast_2d(out[expert])
        for x, draw, kept in zip(*lines, strict=True):
            for i in range(x.size):
                # of equal magnitudes the earlier is the larger
                below = [(abs(x[j]), -j) < (abs(x[i]), -i) for j in range(x.size)]
                slope = 2 * sum(below) / (x.size - 1) - 1 if x.size > 1 else 0.0
                chance = density + epsilon * slope
                kept[i] = x[i] / chance if draw[i] < chance else 0.0
        out[expert] = lines[2].reshape(row.shape)
    return out


def band(d, density, outliers):
    """In rising order, earlier ones last among equals: drop below, then above."""
    flat = d.reshape(len(d), -1).astype(np.float64)
    kept = np.zeros_like(flat)
    n = flat.shape[1]
    for row, out in zip(flat, kept, strict=True):
        keep, top = max(1, int(density * n)), int(outliers * n)
        bottom = n - keep - top
        if bottom < 0:
            top, bottom = top + bottom, 0
        order = sorted(range(n), key=lambda i: (abs(row[i]), -i))
        for i in order[bottom : n - top]:
            out[i] = row[i]
    return kept.reshape(d.shape)


def elected_mean(rows):
    """Algorithm 1 of TIES without its trim."""
    flat = np.asarray(rows, np.float64).reshape(len(rows), -1)
    merged = []
    for column in flat.T:
        agree = [x for x in column if x * column.sum() > 0]
        merged.append(np.mean(agree) if agree else 0.0)
    return np.reshape(merged, (1, *rows.shape[1:]))
