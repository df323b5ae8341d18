"""What this process may use of the machine."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager


def usable_cores() -> int:
    """The cores that this process may use: its affinity, the quota of its container, $LOKY_MAX_CPU_COUNT."""
    from joblib import cpu_count

    return cpu_count()


@contextmanager
def memory_kept() -> Iterator[None]:
    """Inside, memory that was freed is kept for the next large array instead of being given back to the system.

    A training on the processor needs the same large arrays in every step. The system would hand each of them out page
    by page, filled with zeros, which takes up to a quarter of a step. Nothing happens where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold = -1, -3  # see mallopt(3)
    libc.mallopt(mmap_threshold, 2**30)
    libc.mallopt(trim_threshold, 2**31 - 1)
    try:
        yield
    finally:
        # Where glibc itself ends up when large arrays come and go.
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**26)
        libc.malloc_trim(0)
