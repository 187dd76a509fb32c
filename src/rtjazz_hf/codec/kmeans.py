"""Nearest-neighbour search and k-means with plain torch, in bounded memory."""

from __future__ import annotations

import torch

# Distances are held for this many (vector, centroid) pairs at once: 16 MB of float32, which stays near the cache.
MAX_DISTANCES = 2**22


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


def random_rows(vectors: torch.Tensor, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """`count` rows of `vectors` (n, dim), without repetition where there are enough: (count, dim)."""
    device = "cpu" if generator is None else generator.device
    n = vectors.shape[0]
    if n >= count:
        index = torch.randperm(n, generator=generator, device=device)[:count]
    else:
        index = torch.randint(n, (count,), generator=generator, device=device)
    return vectors[index.to(vectors.device)]


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
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lloyd's algorithm from random vectors; empty clusters move to vectors that are far from their centroid.

    Args:
        vectors (`torch.Tensor` of shape `(n, dim)`): float32; fewer of them than clusters are allowed.
        iterations (`int`): all but the last two run on `max_vectors` random vectors, where that is given.

    Returns:
        centroids (num_clusters, dim) and the number of vectors of each (num_clusters,).
    """
    if iterations < 1:
        raise ValueError(f"iterations={iterations} must be at least 1.")
    n = vectors.shape[0]
    sample = vectors
    if max_vectors is not None and n > max_vectors:
        sample = random_rows(vectors, max_vectors, generator)
    centroids = random_rows(sample, num_clusters, generator)
    if n < num_clusters:
        # Repeated rows: a little apart, or only the first of them would ever be chosen.
        noise = torch.randn(centroids.shape, generator=generator, device=getattr(generator, "device", "cpu"))
        centroids = centroids + 0.01 * vectors.std() * noise.to(centroids)
    for i in range(iterations):
        data = vectors if i >= iterations - 2 else sample
        indices, squared = nearest(data, centroids)
        means, _, counts = cluster_means(data, indices, num_clusters)
        empty = counts == 0
        if i < iterations - 1 and bool(empty.any()):
            # + tiny: all-equal vectors have no distance to draw by.
            chances = (squared + 1e-12).to(getattr(generator, "device", "cpu"))
            # torch.multinomial takes at most 2^24 categories.
            drawn = torch.multinomial(
                chances[: 2**24], int(empty.sum()), replacement=True, generator=generator
            )
            means[empty] = data[drawn.to(data.device)]
            centroids = means
        else:
            centroids = torch.where(empty[:, None], centroids, means)
    return centroids, counts
