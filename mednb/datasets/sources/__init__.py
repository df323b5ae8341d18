"""Where images come from: one small file per dataset, which knows its official layout and nothing else."""

from __future__ import annotations

from types import ModuleType

from mednb.datasets.sources import (
    breast,
    bus_uclm,
    busbra,
    busi,
    camus,
    cbis_ddsm,
    cdd_cesm,
    cmmd,
    covid_ct,
    echonet,
    folder,
    hc18,
    head_ct,
    imagefolder,
    inbreast,
    iq_othnccd,
    lidc,
    medmnist,
    mini_mias,
    oasbud,
    pocus,
    stl10,
    stu,
    udiat,
    vindr_mammo,
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
    "mini_mias": mini_mias,
    "cbis_ddsm": cbis_ddsm,
    "inbreast": inbreast,
    "cmmd": cmmd,
    "vindr_mammo": vindr_mammo,
    "cdd_cesm": cdd_cesm,
    # CT
    "lidc": lidc,
    "covid_ct": covid_ct,
    "head_ct": head_ct,
    "iq_othnccd": iq_othnccd,
    # small images of many kinds
    **medmnist.SETS,
    # photographs
    "stl10": stl10,
    "imagefolder": imagefolder,
    # your own
    "folder": folder.Folder(),
}
