"""What this process may use of the machine, and what it keeps."""

import os
import platform
import subprocess
import sys

import pytest

from mednb.machine import usable_cores

# In a process of its own: what the heap of this one looks like depends on the tests before.
PAGES = """
import resource
import numpy as np
from mednb.machine import memory_kept

def fetched():
    np.ones(10_000_000, np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(10_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(fetched())
with memory_kept():
    print(fetched())
print(fetched())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told to keep memory")
def test_large_arrays_get_the_memory_of_those_before_them_and_afterwards_no_longer():
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True, check=True)
    before, kept, afterwards = map(int, done.stdout.split())
    assert kept < 10 < before
    assert afterwards > 10


def test_cores_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    assert usable_cores() == 2
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "48")
    assert usable_cores() <= 3
