"""Nearest-neighbour search and k-means with plain torch, in bounded memory."""

from __future__ import annotations

import torch

# Distances are held for this many (vector, centroid) pairs at once: 16 MB of float32, near a cache's size.
MAX_DISTANCES = 2**22
MIN_PER_CLUSTER = 4
# A cluster with less than this share of the mean number of vectors moves to where it is needed.
MIN_SHARE = 0.1
# How far a moved centroid lies from the one whose cluster it halves, towards one of the vectors there. Not
# all the way: in many dimensions a vector is farther from its neighbours than their mean is, and wins none.
SPLIT = 0.2


def nearest(vectors: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest centroid of each vector, in Euclidean distance.

    vectors (n, dim), centroids (size, dim) -> indices (n,) int64, squared distances (n,).
    """
    norms = centroids.square().sum(dim=1) / 2
    halves, indices = [], []
    for part in vectors.split(max(1, MAX_DISTANCES // centroids.shape[0])):
        # |c|^2 / 2 - x.c orders as |x - c|^2 does: one matrix product, no differences.
        half, index = torch.addmm(norms, part, centroids.T, alpha=-1).min(dim=1)
        halves.append(half)
        indices.append(index)
    squared = (2 * torch.cat(halves) + vectors.square().sum(dim=1)).clamp(min=0)
    return torch.cat(indices), squared


def random_index(n: int, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """`count` of the numbers below `n`, without repetition where possible, on the generator's device."""
    device = "cpu" if generator is None else generator.device
    if n >= count:
        return torch.randperm(n, generator=generator, device=device)[:count]
    return torch.randint(n, (count,), generator=generator, device=device)


def random_rows(vectors: torch.Tensor, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """`count` random rows of `vectors` (n, dim), as `random_index` draws them: (count, dim)."""
    return vectors[random_index(vectors.shape[0], count, generator).to(vectors.device)]


def cluster_means(
    vectors: torch.Tensor, indices: torch.Tensor, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means (size, dim), zero for empty clusters, sums (size, dim) and counts (size,) of assigned vectors."""
    counts = torch.bincount(indices, minlength=size).to(vectors.dtype)
    sums = vectors.new_zeros(size, vectors.shape[1]).index_add_(0, indices, vectors)
    return sums / counts.clamp(min=1)[:, None], sums, counts


@torch.no_grad()
def kmeans(
    vectors: torch.Tensor,
    num_clusters: int,
    iterations: int = 10,
    max_vectors: int | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Lloyd's algorithm from random vectors, where clusters that are nearly empty go to halve wide ones.

    With fewer than `MIN_PER_CLUSTER` vectors a cluster, as many clusters are fitted as they bear, and the
    others lie around them: one cluster per vector would leave no residual for a next level.

    Args:
        vectors (`torch.Tensor` of shape `(n, dim)`): float32.
        iterations (`int`): all but the last two run on `max_vectors` random vectors, where that is given.

    Returns:
        centroids (num_clusters, dim).
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations} must be at least 1.")
    n = vectors.shape[0]
    size = min(num_clusters, max(1, n // MIN_PER_CLUSTER))
    sample = vectors
    if max_vectors is not None and n > max_vectors:
        sample = random_rows(vectors, max_vectors, generator)
    centroids = random_rows(sample, size, generator)
    for i in range(iterations):
        data = vectors if i >= iterations - 2 else sample
        indices, squared = nearest(data, centroids)
        means, _, counts = cluster_means(data, indices, size)
        centroids = torch.where(counts[:, None] > 0, means, centroids)
        idle = counts < MIN_SHARE * counts.mean()
        if i < iterations - 2 and bool(idle.any()):
            # + tiny: all-equal vectors have no distance to draw by.
            chances = (squared + 1e-12).to("cpu" if generator is None else generator.device)
            # torch.multinomial takes at most 2^24 categories.
            drawn = torch.multinomial(
                chances[: 2**24], int(idle.sum()), replacement=True, generator=generator
            ).to(data.device)
            centroids[idle] = torch.lerp(centroids[indices[drawn]], data[drawn], SPLIT)
    if size < num_clusters:
        drawn = random_rows(vectors, num_clusters - size, generator)
        around = torch.lerp(centroids[nearest(drawn, centroids)[0]], drawn, SPLIT)
        centroids = torch.cat([centroids, around])
    return centroids
