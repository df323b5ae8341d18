"""SwAV: Caron et al., Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, NeurIPS 2020."""

import torch
import torch.nn.functional as F
from lightly.loss.swav_loss import sinkhorn
from lightly.models.modules import SwaVProjectionHead
from lightly.utils import dist
from torch import Tensor, nn

from mednb.methods.base import Crops, Method, Prototypes, Queue, gathered, uncounted


class SwAV(Method):
    """From one view, say to which prototype another view of the same image is assigned.

    The assignments (codes) of the two large views are made by Sinkhorn's algorithm, which spreads a batch evenly over
    the prototypes: that all images fall into one is ruled out. That all are equally far from every prototype is not:
    with fewer prototypes than dimensions (`width`) there is such a direction, and all projections can move there.
    `epsilon` is lower than the paper's 0.05, because at first all images are much alike, and soft codes would hardly
    tell them apart. At the very start the prototypes stand still. The loss at chance is log(prototypes).

    `small_crops` are further views of half the side that only predict (multi-crop). With a `queue` the projections of
    earlier batches join in when codes are made, as many as there have been, once the first tenth of the training is
    over. Both are the paper's, for long trainings; within some hundred steps small crops made it worse.
    """

    batch_size = 64
    lr = 2e-3
    frozen, queue_from = 0.02, 0.1  # shares of the training

    def __init__(
        self,
        encoder: nn.Module,
        width: int = 128,
        prototypes: int = 256,
        temperature: float = 0.1,
        epsilon: float = 0.02,
        queue: int = 0,
        small_crops: int = 0,
    ):
        super().__init__(encoder)
        if small_crops:
            self.crops = (Crops(2), Crops(small_crops, 0.5, (0.05, 0.3)))
        self.head = SwaVProjectionHead(encoder.width, encoder.width, width)
        self.prototypes = Prototypes(width, prototypes)  # C
        self.queues = nn.ModuleList(Queue(torch.zeros(queue, width)) for _ in range(2))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.int64))  # rows, into each queue
        self.temperature, self.epsilon = temperature, epsilon
        self.register_buffer("use", torch.full((prototypes,), 1 / prototypes), persistent=False)

    def project(self, x: Tensor) -> Tensor:
        return F.normalize(self.head(self.encoder(x)).float(), dim=1)  # (N, d)

    @torch.no_grad()
    def codes(self, z: Tensor, queue: Tensor) -> Tensor:
        """Assignments q (N, K) of projections (N, d): each row adds up to 1, and the columns are equally full."""
        scores = self.prototypes(torch.cat([gathered(z), queue]))  # (W N + Q, K)
        return balanced(scores, self.epsilon)[len(z) * dist.rank() :][: len(z)]

    def loss(self, *views: Tensor) -> Tensor:
        z = [self.project(x) for x in views[:2]]
        if len(views) > 2:
            with uncounted(self):
                z += self.project(torch.cat(views[2:])).chunk(len(views) - 2)
        with torch.autocast(z[0].device.type, enabled=False):
            p = [self.prototypes(z_v, self.progress < self.frozen) / self.temperature for z_v in z]  # (N, K)
            losses, queued = [], int(self.pushed) if self.progress >= self.queue_from else 0
            for s, queue in enumerate(self.queues):
                q = self.codes(z[s], queue.rows[:queued])
                losses += [F.cross_entropy(p[v], q) for v in range(len(views)) if v != s]
                queue.push(z[s])
            self.pushed += len(z[0]) * dist.world_size()
        self.use = F.softmax(p[0].detach(), dim=1).mean(0)
        return torch.stack(losses).mean()

    def signs(self) -> dict[str, float]:
        """How many prototypes are in use: the exponential of the entropy of their mean probability."""
        return {"prototypes_in_use": float(torch.special.entr(self.use).sum().exp())}


def balanced(scores: Tensor, epsilon: float) -> Tensor:
    """Sinkhorn's algorithm: scores (N, K) -> (N, K), where each row adds up to 1 and the columns are equally full.

    In 64 bits, since 32 do not hold exp(1 / 0.01).
    """
    return sinkhorn((scores - scores.max()).double(), epsilon=epsilon).float()
