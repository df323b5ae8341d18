"""VICRegL: Bardes et al., Self-Supervised Learning of Local Visual Features, NeurIPS 2022."""

import torch.nn.functional as F
from lightly.loss import VICRegLLoss
from lightly.models.modules.heads import VicRegLLocalProjectionHead, VICRegProjectionHead
from torch import Tensor, nn

from mednb.methods.base import STRIDES, InFloat32, Method, with_map


class VICRegL(Method):
    """VICReg for the whole view, and for its cells: those that show the same place, and those that look the same.

    Where a cell lies in the image is known, as the views were cut out by us: cells are matched with the nearest one of
    the other view, once by place and once by features, and the best matches take part. The map is the one at stride 16
    (see DenseCL); of its cells 40 % of one view and 8 % of the other are matched, as in the authors' code (20 and 4 of
    7 x 7; by the paper, 20 of large views and 4 of small ones).
    """

    batch_size = 128
    wants = ("grids",)
    looks_at_maps = True

    def __init__(self, encoder: nn.Module, width: int = 1024, dense_width: int = 256, alpha: float = 0.75, stride=16):
        super().__init__(encoder)
        channels = encoder.width * stride // STRIDES[-1]
        self.head = VICRegProjectionHead(encoder.width, width, width)
        self.dense_head = VicRegLLocalProjectionHead(channels, dense_width, dense_width)
        self.alpha, self.stride = alpha, stride

    def project(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) -> projections of the whole (N, d) and of its cells (N, h, w, d')."""
        h, cells = with_map(self.encoder, x, self.stride)
        return self.head(h), self.dense_head(cells.permute(0, 2, 3, 1))

    def loss(self, a: Tensor, b: Tensor, grids: list[Tensor]) -> Tensor:
        z = [self.project(x) for x in (a, b)]
        h, w = z[0][1].shape[1:3]
        places = [F.adaptive_avg_pool2d(grid.permute(0, 3, 1, 2), (h, w)).permute(0, 2, 3, 1) for grid in grids]
        matches = tuple(max(1, round(share * h * w)) for share in (0.4, 0.08))
        return InFloat32(VICRegLLoss(alpha=self.alpha, num_matches=matches, gather_distributed=True))(z, places)
