"""DINO: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021."""

from copy import deepcopy

import torch
from lightly.loss import DINOLoss
from lightly.models.modules.heads import ProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from mednb.methods.base import Crops, InFloat32, Method, Prototypes


class DINO(Method):
    """A student says of every crop what its teacher says of the large ones: self-distillation with no labels.

    The teacher is a moving average of the student and gets no gradient. Its answers over `width` classes without names
    are centred, so that no class takes all, and sharpened by a low temperature, so that not all classes are equally
    likely: each alone would collapse, both together do not. That temperature rises from 0.04 to 0.07 over the first
    30 % of the training; at the very start the student's last layer stands still. The loss at chance is log(width).
    """

    batch_size = 64
    crops = (Crops(2), Crops(4, 0.5, (0.05, 0.3)))
    clip = 3.0
    frozen, warmup = 0.02, 0.3  # shares of the training

    def __init__(self, encoder: nn.Module, width: int = 1024, hidden: int = 512, m: float = 0.99):
        super().__init__(encoder)
        self.head = ProjectionHead(
            [
                (encoder.width, hidden, nn.BatchNorm1d(hidden), nn.GELU()),  # with batch norm, as for convolutions
                (hidden, hidden, nn.BatchNorm1d(hidden), nn.GELU()),
                (hidden, 128, None, None),
            ]
        )
        self.last = Prototypes(128, width)
        self.teacher = deepcopy(self.student()).requires_grad_(False)
        self.distillation = InFloat32(DINOLoss(width, student_temp=0.1, center_momentum=0.9))
        self.m = m
        self.register_buffer("classes", torch.full((2,), float(width)), persistent=False)

    def student(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.head, self.last)

    def loss(self, *views: Tensor) -> Tensor:
        with torch.no_grad():
            t = [self.teacher(x) for x in views[:2]]  # (N, K)
        z = [self.head(self.encoder(x)) for x in views[:2]]
        if len(views) > 2:
            z += self.head(self.encoder(torch.cat(views[2:]))).chunk(len(views) - 2)
        s = [self.last(z_v, self.progress < self.frozen) for z_v in z]  # (N, K)
        p = ((t[0].float() - self.distillation.loss.center[0]) / self.temperature()).softmax(1)
        entr = torch.special.entr
        self.classes = torch.stack([entr(p).sum(1).mean(), entr(p.mean(0)).sum()]).exp()
        return self.distillation(t, s, teacher_temp=self.temperature())

    def temperature(self) -> float:
        """The teacher's."""
        return 0.04 + 0.03 * min(1.0, self.progress / self.warmup)

    def after_step(self, step: int, steps: int) -> None:
        super().after_step(step, steps)
        m = cosine_schedule(step, steps, start_value=self.m, end_value=1.0)
        update_momentum(self.student(), self.teacher, m=m)

    def signs(self) -> dict[str, float]:
        """In how many classes the teacher speaks, of one image and of all: the exponentials of two entropies.

        Both near `width`: it says nothing. Both near 1: it says the same of all.
        """
        return dict(zip(("classes_of_one", "classes_of_all"), self.classes.tolist(), strict=True))
