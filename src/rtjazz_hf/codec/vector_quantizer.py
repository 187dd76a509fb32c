"""One level of the residual quantiser: a codebook, its projections, and how it follows the data in training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .kmeans import SPLIT, cluster_means, kmeans, nearest, random_index

KMEANS_START_VECTORS = 20_000
KMEANS_START_ITERATIONS = 10


class VectorQuantizer(nn.Module):
    """One level: a codebook `embed` (codebook_size, codebook_dim), projected if that is below `dim`."""

    def __init__(
        self,
        dim: int,
        codebook_dim: int,
        codebook_size: int,
        update: str,
        decay: float,
        dead_threshold: float,
    ):
        super().__init__()
        self.update = update
        self.decay = decay
        self.dead_threshold = dead_threshold
        embed = torch.zeros(codebook_size, codebook_dim)
        if update == "gradient":
            self.embed = nn.Parameter(embed)
        else:
            self.register_buffer("embed", embed)
        # How often each entry is chosen, 1 = the mean of all entries, as a moving average.
        self.register_buffer("cluster_size", torch.ones(codebook_size))
        self.register_buffer("inited", torch.tensor(False))
        if codebook_dim < dim:
            self.in_proj = nn.Linear(dim, codebook_dim, bias=False)
            self.out_proj = nn.Linear(codebook_dim, dim, bias=False)
        else:
            self.in_proj = self.out_proj = None
        if not self.embed.is_meta:  # there, nothing is filled, and torch would import SymPy to do so
            self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Random entries and projections; k-means replaces both when training starts."""
        init.normal_(self.embed, std=self.embed.shape[1] ** -0.5)
        init.ones_(self.cluster_size)
        init.constant_(self.inited, False)
        if self.in_proj is not None:
            init.orthogonal_(self.in_proj.weight)
            init.copy_(self.out_proj.weight, self.in_proj.weight.T)

    def project(self, residual: torch.Tensor) -> torch.Tensor:
        """(n, dim) -> (n, codebook_dim)."""
        return residual if self.in_proj is None else F.linear(residual, self.in_proj.weight.float())

    def expand(self, entries: torch.Tensor) -> torch.Tensor:
        """(n, codebook_dim) -> (n, dim)."""
        return entries if self.out_proj is None else F.linear(entries, self.out_proj.weight.float())

    def vectors(self) -> torch.Tensor:
        """Effective vectors in the scaled space: (codebook_size, dim)."""
        return self.expand(self.embed.float())

    def nearest(self, residual: torch.Tensor) -> torch.Tensor:
        """Codes (n,) of the entries nearest to `residual` (n, dim), in code space."""
        return nearest(self.project(residual), self.embed.float())[0]

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Effective vectors of codes: (...) -> (..., dim)."""
        return self.expand(F.embedding(codes, self.embed.float()))

    @torch.no_grad()
    def fit(self, residual: torch.Tensor, iterations: int, max_vectors: int, generator=None) -> None:
        """K-means on residuals (n, dim); projections become the principal components of the residuals."""
        if self.in_proj is not None:
            covariance = residual.T @ residual / residual.shape[0]
            components = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, : self.embed.shape[1]]
            self.in_proj.weight.copy_(components.T)
            self.out_proj.weight.copy_(components)
        projected = self.project(residual)
        self.embed.copy_(kmeans(projected, self.embed.shape[0], iterations, max_vectors, generator))
        self.cluster_size.fill_(1.0)  # no entry counts as dead yet
        self.inited.fill_(True)

    @torch.no_grad()
    def start(self, residual: torch.Tensor, generator=None) -> None:
        """K-means start on the first training batch; in a process group, on that of rank 0."""
        self.fit(residual, KMEANS_START_ITERATIONS, KMEANS_START_VECTORS, generator)
        for tensor in self.state_dict().values():
            broadcast_(tensor)

    @torch.no_grad()
    def follow(self, projected: torch.Tensor, codes: torch.Tensor, generator=None) -> None:
        """Move entries towards the vectors that chose them; those that hardly any chooses halve others."""
        size = self.embed.shape[0]
        _, sums, counts = cluster_means(projected, codes, size)
        all_reduce_(sums)
        all_reduce_(counts)
        mean = counts.mean().clamp(min=1e-5)  # every step weighs the same, whatever its batch size
        cluster_size = self.decay * self.cluster_size.float() + (1 - self.decay) * counts / mean
        embed = self.embed.float()
        if self.update == "ema":
            # Equals the average of sums over that of counts, without a second codebook to store.
            step = (1 - self.decay) * (sums - counts[:, None] * embed) / mean
            embed = embed + step / cluster_size.clamp(min=1e-5)[:, None]
        # No branch on the number of dead entries: it would make a GPU wait at every step.
        dead = cluster_size < self.dead_threshold
        drawn = random_index(projected.shape[0], size, generator).to(codes.device)
        halves = torch.lerp(embed[codes[drawn]], projected[drawn], SPLIT)
        broadcast_(halves)
        self.embed.copy_(torch.where(dead[:, None], halves, embed))
        self.cluster_size.copy_(torch.where(dead, 1.0, cluster_size))


def codebook_statistics(codes: torch.Tensor, codebook_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Perplexity, exp(entropy in nats), and usage, the share of entries chosen, of codes (n,) of one level.

    Usage wants many more codes than entries: pass the codes of a whole held-out set.
    """
    counts = torch.bincount(codes.reshape(-1), minlength=codebook_size).float()
    share = counts / counts.sum().clamp(min=1)
    perplexity = torch.exp(-torch.xlogy(share, share).sum())
    return perplexity, (counts > 0).float().mean()


def in_process_group() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def process_count() -> int:
    return dist.get_world_size() if in_process_group() else 1


def all_reduce_(tensor: torch.Tensor) -> None:
    """Sum over the processes of a distributed run, in place."""
    if in_process_group():
        dist.all_reduce(tensor)


def broadcast_(tensor: torch.Tensor) -> None:
    """Take rank 0's values in a distributed run, in place."""
    if in_process_group():
        dist.broadcast(tensor, src=0)
