"""DINO: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021."""

from copy import deepcopy

import torch
import torch.nn.functional as F
from lightly.loss import DINOLoss
from lightly.models.modules.heads import ProjectionHead
from lightly.models.utils import update_momentum
from lightly.utils import dist
from lightly.utils.scheduler import cosine_schedule
from torch import Tensor, nn

from mednb.methods.base import Crops, InFloat32, Method, Prototypes, gathered, uncounted
from mednb.methods.swav import balanced


class DINO(Method):
    """A student says of every crop what its teacher says of the large ones: self-distillation with no labels.

    The teacher is a moving average of the student and gets no gradient. Its answers over `width` classes without names
    must not collapse: neither may one class take all, nor may all be equally likely. Sinkhorn's algorithm spreads each
    batch evenly over the classes, the sharper the lower `epsilon`; the authors compare that, and DINOv2 (Oquab et al.
    2023) has it. With `epsilon=None` answers are centred by their moving average and sharpened by a temperature that
    rises from 0.04 to 0.07 over the first 30 % of the training, the paper's choice for long trainings: within some
    hundred steps the teacher said next to nothing. At the very start the student's last layer stands still. The loss at
    chance is log(width).

    `small_crops` are further views of half the side, which the student alone sees. Kept is the student; the authors
    evaluate the teacher, in which a short training leaves some of its random start.
    """

    batch_size = 32  # many steps: the teacher must move far from where it was drawn, for which `m` is low, too
    lr = 2e-3
    clip = 3.0
    frozen, warmup = 0.02, 0.3  # shares of the training

    def __init__(
        self,
        encoder: nn.Module,
        width: int = 1024,
        hidden: int = 512,
        m: float = 0.9,
        epsilon: float | None = 0.02,
        small_crops: int = 0,
    ):
        super().__init__(encoder)
        if small_crops:
            self.crops = (Crops(2), Crops(small_crops, 0.5, (0.05, 0.3)))
        gelu = nn.GELU()
        self.head = ProjectionHead(
            [(encoder.width, hidden, None, gelu), (hidden, hidden, None, gelu), (hidden, 128, None, None)]
        )
        for layer in self.head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = Prototypes(128, width)
        self.teacher = deepcopy(self.student()).requires_grad_(False)
        self.distillation = InFloat32(DINOLoss(width, student_temp=0.1, center_momentum=0.9))
        self.m, self.epsilon = m, epsilon
        self.register_buffer("classes", torch.full((2,), float(width)), persistent=False)

    def student(self) -> nn.Sequential:
        return nn.Sequential(self.encoder, self.head, self.last)

    def loss(self, *views: Tensor) -> Tensor:
        with torch.no_grad():
            t = [self.teacher(x) for x in views[:2]]  # (N, K)
        z = [self.head(self.encoder(x)) for x in views[:2]]
        if len(views) > 2:
            with uncounted(self.encoder):
                z += self.head(self.encoder(torch.cat(views[2:]))).chunk(len(views) - 2)
        s = [self.last(z_v, self.progress < self.frozen) for z_v in z]  # (N, K)
        if self.epsilon is None:
            p = ((t[0].float() - self.distillation.loss.center[0]) / self.temperature()).softmax(1)
            loss = self.distillation(t, s, teacher_temp=self.temperature())
        else:
            with torch.autocast(t[0].device.type, enabled=False):
                n = len(t[0])
                q = [balanced(gathered(t_v), self.epsilon)[n * dist.rank() :][:n] for t_v in t]  # (N, K)
                pairs = [(v, w) for v in range(len(q)) for w in range(len(s)) if v != w]
                loss = torch.stack([F.cross_entropy(s[w] / 0.1, q[v]) for v, w in pairs]).mean()
            p = q[0]
        entr = torch.special.entr
        self.classes = torch.stack([entr(p).sum(1).mean(), entr(p.mean(0)).sum()]).exp()
        return loss

    def temperature(self) -> float:
        """The teacher's, where its answers are centred."""
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
