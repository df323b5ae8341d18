"""Random initialisation: the baseline that every table holds."""

from mednb.methods.base import Method


class RandomInitialisation(Method):
    """No pretraining. The encoder stays as it was drawn; it passes through the same later stages as all others."""

    pretrains = False
