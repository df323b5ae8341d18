"""Where images come from: one small file per dataset, which knows its official layout and nothing else."""

from __future__ import annotations

from types import ModuleType

from mednb.datasets.sources import (
    breast,
    bus_uclm,
    busbra,
    busi,
    camus,
    echonet,
    hc18,
    oasbud,
    pocus,
    stu,
    udiat,
)

SOURCES: dict[str, ModuleType] = {
    # ultrasound of the breast
    "busi": busi,
    "busbra": busbra,
    "breast": breast,
    "bus_uclm": bus_uclm,
    "udiat": udiat,
    "oasbud": oasbud,
    "stu": stu,
    # ultrasound of other organs
    "pocus": pocus,
    "camus": camus,
    "echonet": echonet,
    "hc18": hc18,
    # mammography
    # CT
    # photographs
    # your own
}
