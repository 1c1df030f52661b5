import threading

import jax
import numpy as np

from mda_jax import merge, methods


def trees():
    draw = np.random.default_rng(0)

    def tree():
        widths = {f"{i}": 128 * (1 + i % 2) for i in range(8)}
        return {n: np.float32(draw.normal(size=(128, w))) for n, w in widths.items()}

    return tree(), [tree() for _ in range(8)]


DECOMPOSING = "dc_merge", "iso_cts", "svc", "tsv"


def test_threads_merge_at_once_and_alike():
    """With batched LAPACK calls, six of these threads block each other at once."""
    base, experts = trees()
    built = [getattr(methods, name)() for name in DECOMPOSING]
    want = [merge(base, experts, method) for method in built]
    agreed = []

    def work(i):
        for _ in range(3):
            got = merge(base, experts, built[i])
            jax.tree.map(np.testing.assert_array_equal, got, want[i])
        agreed.append(i)

    chosen = list(range(len(built))) * 3
    threads = [threading.Thread(target=work, args=[i], daemon=True) for i in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sorted(agreed) == sorted(chosen)
