"""Supervised pretraining on ImageNet: the weights that most of medical imaging starts from."""

from torch import nn

from mednb import encoders
from mednb.methods.base import Method


class ImageNet(Method):
    """No pretraining here: the encoder was trained by others with the labels of 1.28 million photographs.

    The baseline of He et al. (Rethinking ImageNet pre-training, ICCV 2019) and Raghu et al. (Transfusion, NeurIPS
    2019). The colours' kernels are added up for grey images. Its budget is not ours, and the tables say so: it saw no
    image of this study.
    """

    pretrains = False

    def __init__(self, encoder: nn.Module):
        super().__init__(encoder)
        encoders.take(encoder, encoders.imagenet(encoder.name), "the weights of ImageNet")
