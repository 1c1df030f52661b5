"""How much memory the process of a command holds."""

import ctypes


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def return_freed_memory() -> None:
    """Have glibc give large freed blocks back to the system; a no-op elsewhere.

    By default it soon keeps blocks of up to 32 MiB for reuse, an eighth of the peak of
    a merge by singular subspaces. Smaller ones stay: to get them anew costs more time
    than to merge what they hold.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    libc.mallopt(_MMAP_THRESHOLD, 8 << 20)
    libc.mallopt(_TRIM_THRESHOLD, 64 << 20)
