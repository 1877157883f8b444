"""What the C library does with memory that Python has freed."""

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Of mallopt(3)."""
_LARGE = 256 * 1024
"""Bytes. Blocks of this size are mapped by themselves, and as much is kept at the top of the heap."""


def give_back_what_is_freed() -> bool:
    """
    Have large blocks mapped one by one, so that they are given back to the system when they are freed.

    Listings of a whole fleet come as bodies of megabytes, again and again. By itself glibc raises its thresholds when it
    sees those, takes them from the heap, and gives every thread a heap of its own: 10,000 stacks then hold 2 KiB more each.
    Only one thread at a time runs Python, so that one heap is enough.

    Returns False where the C library knows no such settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_THRESHOLD, _LARGE), (_M_TRIM_THRESHOLD, _LARGE))
    return all(mallopt(name, value) == 1 for name, value in settings)
