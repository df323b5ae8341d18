"""Views: how a batch of images is disturbed, at once, on the device where it lies.

Every random number is a function of (seed, epoch, image, view), so that a view does not depend on the batch it is in,
on the order of the batches, or on whether a run was interrupted.

    >>> from mednb import views
    >>> keys = views.key(seed=0, epoch=3, index=rows, view=1)
    >>> views.policy("ultrasound")(pixels, keys)  # (N, H, W) uint8 -> (N, 1, H, W) float
"""

from mednb.views.keys import key, uniform
from mednb.views.modalities import BY_MODALITY, LABELLED, NAMES, POLICIES, examples, labelled, policy, strengths
from mednb.views.operations import MEAN, STD, plain
from mednb.views.recipe import ByModality, Policy, overlap

__all__ = ["BY_MODALITY", "LABELLED", "MEAN", "NAMES", "POLICIES", "STD", "ByModality", "Policy"]
__all__ += ["examples", "key", "labelled", "overlap", "plain", "policy", "strengths", "uniform"]
