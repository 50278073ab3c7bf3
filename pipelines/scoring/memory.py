"""Memory of a process that scores for hours."""

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3  # <malloc.h>
_LARGE_BYTES = 1 << 20


def give_back_large_blocks() -> None:
    """Has glibc return arrays of 1 MB and more to the system as they are freed; elsewhere does nothing.

    By default it keeps ever larger ones for later, in a heap for each thread: batches of logits that come and go leave
    holes there, and the process grows by some 200 MB before it settles. Not for frame-level models, whose arrays of
    several MB per call come so often that clearing new memory for each would take half of the time.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
