"""Where images come from: one small file per dataset, which knows its official layout and nothing else."""

from __future__ import annotations

from types import ModuleType

from mednb.datasets.sources import busi

SOURCES: dict[str, ModuleType] = {
    # ultrasound of the breast
    "busi": busi,
    # ultrasound of other organs
    # mammography
    # CT
    # photographs
    # your own
}
