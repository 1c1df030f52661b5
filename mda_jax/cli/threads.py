"""How many threads the process of a command has."""

import os


def one_thread_for_lapack() -> None:
    """Have OpenBLAS, behind JAX's LAPACK calls on the CPU, use one thread.

    Its threads spin while they wait for each other: with other work on the cores a
    merge by singular subspaces took 34 s instead of 0.4 s, while alone two threads were
    no faster than one. Takes effect before scipy is loaded, and yields to a value that
    the user has set.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
