"""Keep freed memory for the next training step instead of giving it back to the system after every layer."""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST_FROM_HEAP = 32 * 1024 * 1024  # bytes; glibc allows no more
KEEP = 2**31 - 1  # bytes


def keep_freed_memory() -> None:
    """Tell glibc to hold on to freed memory; does nothing with another C library.

    A step frees and takes the same hundreds of megabytes again and again, and each page that comes back from the system
    has to be cleared first: a third of a CPU's training step (docs/journal.md). The peak is no higher.
    """
    if sys.platform == "linux" and hasattr(mallopt := ctypes.CDLL(None), "mallopt"):
        mallopt.mallopt(MMAP_THRESHOLD, LARGEST_FROM_HEAP)
        mallopt.mallopt(TRIM_THRESHOLD, KEEP)
