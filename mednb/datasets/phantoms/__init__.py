"""Phantoms: synthetic patients in three modalities, drawn on the spot from a seed; no download.

Known, a column of the table, is every number and word that a whole person, lesion, scanner or exposure has in that
modality. Drawn besides, and in no column, is what differs from place to place: tissue, the lobes of an outline, speckle
and noise, where each calcification lies.
"""

from mednb.datasets.phantoms import ct, mammography, ultrasound

__all__ = ["ct", "mammography", "ultrasound"]
