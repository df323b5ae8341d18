"""What this process may use of the machine."""

from __future__ import annotations

import os
from pathlib import Path


def usable_cores() -> int:
    """The cores that this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        most, period = quota.read_text(encoding="utf-8").split()
        cores = cores if most == "max" else min(cores, max(1, int(most) // int(period)))
    return cores
