"""Embeddings: what an encoder makes of images, drawn as a map, looked up by neighbours, measured by its geometry."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mednb import views


def extract(encoder: nn.Module, pixels: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Embeddings `h` (N, D) float32 of images (N, H, W) or (N, C, H, W), uint8 or uint16.

    The encoder is set to eval mode: images do not mix. It works on the GPU where there is one, and then comes home.
    """
    home = next(encoder.parameters()).device
    device = torch.device("cuda") if torch.cuda.is_available() else home
    encoder = encoder.eval().to(device)
    blocks = (torch.from_numpy(np.array(pixels[at : at + batch_size])) for at in range(0, len(pixels), batch_size))
    with torch.inference_mode():  # not while it moves: its weights could not be trained any more
        h = torch.cat([encoder(views.plain(block.to(device))).float().cpu() for block in blocks])
    encoder.to(home)
    return h.numpy()


def frame(table: pd.DataFrame, h: np.ndarray) -> pd.DataFrame:
    """The images' table with one column for each dimension of their embeddings: h000, h001, ..."""
    columns = [f"h{d:03d}" for d in range(h.shape[1])]
    return pd.concat([table.reset_index(drop=True), pd.DataFrame(h, columns=columns)], axis=1)


def vectors(embeddings: pd.DataFrame) -> np.ndarray:
    """The embeddings (N, D) float32 back from a frame that `frame` made."""
    return embeddings.filter(regex=r"^h\d+$").to_numpy(np.float32)


def umap(h: np.ndarray, neighbours: int = 15, seed: int = 0) -> np.ndarray:
    """A map (N, 2) on which near embeddings (by cosine) stay near (UMAP: McInnes et al. 2018).

    Distances between far groups and the sizes of groups mean nothing. The same seed gives the same map on the same
    machine and versions only, so the coordinates are saved and the saved ones are drawn.
    """
    from umap import UMAP

    near = min(neighbours, len(h) - 1)
    return UMAP(n_neighbors=near, metric="cosine", random_state=seed, n_jobs=1).fit_transform(h).astype(np.float32)


def neighbours(h: np.ndarray, k: int = 5, among: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of `among` by cosine for each row of `h`: their numbers (N, k) and similarities (N, k).

    Without `among`, the neighbours are sought in `h` itself and no row is its own neighbour.
    """
    from sklearn.neighbors import NearestNeighbors

    distance, index = (
        NearestNeighbors(n_neighbors=k, metric="cosine")
        .fit(h if among is None else among)
        .kneighbors(None if among is None else h)
    )
    return index, 1 - distance


def geometry(a: np.ndarray | Tensor, b: np.ndarray | Tensor) -> dict[str, float]:
    """Four numbers about embeddings (N, D) of two views of the same N images, all on the unit sphere.

    - `alignment`: mean squared distance of the two views of an image, 0 to 4; lower is better (Wang & Isola 2020).
    - `uniformity`: log of the mean of exp(-2 d^2) over pairs of images; 0 when all are one point, about -4 when spread
      evenly (Wang & Isola 2020).
    - `spread`: standard deviation of a dimension times sqrt(D), mean over dimensions; 1 when spread evenly, 0 when
      collapsed (Chen & He 2021).
    - `effective_rank`: exponential of the entropy of the singular values of the centred embeddings, 1 to min(N, D): how
      many dimensions are in use (Roy & Vetterli 2007; Garrido et al. 2023).
    """
    a, b = (F.normalize(torch.as_tensor(x).float(), dim=1) for x in (a, b))
    return {
        "alignment": float((a - b).square().sum(1).mean()),
        "uniformity": uniformity(a),
        "spread": spread(a),
        "effective_rank": effective_rank(a),
    }


def spread(x: Tensor) -> float:
    """Standard deviation of a dimension of vectors (N, D) on the unit sphere, times sqrt(D): see `geometry`."""
    from lightly.utils.debug import std_of_l2_normalized

    return float(std_of_l2_normalized(x.float())) * x.shape[1] ** 0.5


def effective_rank(x: Tensor) -> float:
    """How many dimensions vectors (N, D) use on the unit sphere: see `geometry`."""
    x = F.normalize(x.float(), dim=1)
    singular = torch.linalg.svdvals(x - x.mean(0))
    share = singular / singular.sum().clamp(min=1e-12)
    return float(torch.special.entr(share).sum().exp())


def uniformity(x: Tensor) -> float:
    """How evenly vectors (N, D) fill the unit sphere: see `geometry`."""
    return float(torch.pdist(F.normalize(x.float(), dim=1)).square().mul(-2).exp().mean().log())
