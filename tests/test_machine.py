"""What this process may use of the machine, and what it keeps."""

import platform
import resource

import numpy as np
import pytest

from mednb.machine import memory_kept


def pages_fetched(times: int) -> int:
    """How many pages the system hands out while 40 MB come and go, again and again."""
    np.ones(10_000_000, np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(10_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_large_arrays_get_the_memory_of_those_before_them_and_afterwards_no_longer():
    with memory_kept():
        kept = pages_fetched(10)
    assert kept < 100
    assert pages_fetched(10) > 1000
