"""What a process has freed, given back to the system."""

import contextlib
import ctypes
import sys


def return_freed_memory() -> None:
    """Has glibc give the memory back that it keeps for later; elsewhere does nothing.

    Takes some milliseconds per hundred megabytes, and what is needed again is cleared again: call it when loading has
    ended, or some seconds apart.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
