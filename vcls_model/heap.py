"""What a process has freed: given back to the system, or kept for the next that is as large (glibc; elsewhere nothing).

By itself the C library returns arrays of some MB as they are freed. To get them again costs more than it seems: the
system clears each page, a sixth of a training's time on virtual machines.
"""

import contextlib
import ctypes

# What other systems raise.
_ELSEWHERE = (OSError, AttributeError, TypeError)
# <malloc.h>
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
# The most that the library accepts; larger arrays are returned in any case.
_LARGE_BYTES = 32 << 20


def return_freed_memory() -> None:
    """Returns what was freed.

    Takes some milliseconds per hundred megabytes, and what is needed again is cleared again: call it when loading has
    ended, or some seconds apart.
    """
    with contextlib.suppress(*_ELSEWHERE):
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> None:
    """Keeps arrays of up to 32 MB when they are freed: for a process that needs as much again at every step."""
    with contextlib.suppress(*_ELSEWHERE):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_TOP_PAD, 2 * _LARGE_BYTES)
