"""Phantoms: synthetic patients in three modalities, drawn on the spot from a seed; no download, every factor known."""

from mednb.datasets.phantoms import ct, mammography, ultrasound

__all__ = ["ct", "mammography", "ultrasound"]
