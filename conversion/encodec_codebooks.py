"""EnCodec's codebooks in our quantiser: more entries, fewer dimensions, and the latents' statistics."""

from __future__ import annotations

import torch
from transformers import EncodecModel

from rtjazz_hf.codec import RealTimeJazzCodec
from rtjazz_hf.codec.kmeans import SPLIT

MAX_GROWTH = 4  # entries a new codebook may have for each old one


def trained_codebooks(model: EncodecModel) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Entries (entries, hidden_size) of every level up to the first that was never trained, and the share of
    frames that choose each (entries,).

    An untrained codebook holds the same vector, zero, in every place.
    """
    entries, shares = [], []
    for layer in model.quantizer.layers:
        embed, usage = layer.codebook.embed, layer.codebook.cluster_size.clamp(min=0)
        if torch.equal(embed, embed[:1].expand_as(embed)):
            break
        entries.append(embed)
        usage = usage if usage.sum() > 0 else torch.ones_like(usage)
        shares.append(usage / usage.sum())
    return entries, shares


def latents_moments(
    entries: list[torch.Tensor], shares: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (dim,) and covariance (dim, dim), float64, of the sum of one entry of each level, drawn by its
    share; levels are taken to be independent, as residuals nearly are."""
    mean, covariance = 0.0, 0.0
    for vectors, share in zip(entries, shares, strict=True):
        vectors, share = vectors.double(), share.double()
        centre = share @ vectors
        mean = mean + centre
        covariance = covariance + (vectors - centre).T @ ((vectors - centre) * share[:, None])
    return mean, covariance


def principal_basis(
    entries: list[torch.Tensor], shares: list[torch.Tensor], latent_dim: int
) -> tuple[torch.Tensor, float]:
    """Orthonormal rows (latent_dim, hidden_size) that keep most of the latents' power, and the share kept.

    Not centred: the projection needs no offset then, and zero stays zero.
    """
    mean, covariance = latents_moments(entries, shares)
    values, vectors = torch.linalg.eigh(covariance + torch.outer(mean, mean))
    kept = values[-latent_dim:].sum() / values.sum()
    return vectors.T.flip(0)[:latent_dim].float().contiguous(), kept.item()


def split_entries(entries: torch.Tensor, share: torch.Tensor, count: int) -> torch.Tensor:
    """`count` more entries: each lies a part of the way from an old one to its nearest neighbour, from the most
    used on; in a second round to the second nearest, and so on (a splitting as in Linde, Buzo and Gray, 1980,
    that leaves the old entry where it was)."""
    size = entries.shape[0]
    distances = torch.cdist(entries, entries)
    distances[distances == 0] = torch.inf  # neither itself nor a twin
    neighbours = distances.argsort(dim=1)
    parents = share.argsort(descending=True, stable=True).repeat(-(-count // size))[:count]
    rounds = (torch.arange(count) // size).clamp(max=size - 2)
    return torch.lerp(entries[parents], entries[neighbours[parents, rounds]], SPLIT)


@torch.no_grad()
def write_codebooks(
    codec: RealTimeJazzCodec,
    entries: list[torch.Tensor],
    shares: list[torch.Tensor],
    basis: torch.Tensor | None,
) -> None:
    """Fill the levels that there are entries for, and normalise the latents by what the codebooks tell of them.

    The codebooks stay in EnCodec's space: offset and channel scale of the quantiser undo the normalisation.
    """
    if not entries:
        return
    if basis is not None:
        entries = [vectors @ basis.T for vectors in entries]
    for layer, vectors, share in zip(codec.quantizer.layers, entries, shares):
        size = vectors.shape[0]
        layer.embed[:size] = vectors
        if layer.embed.shape[0] > size:
            layer.embed[size:] = split_entries(vectors, share, layer.embed.shape[0] - size)
        layer.cluster_size.fill_(1.0)  # no entry counts as dead yet
        layer.inited.fill_(True)
    mean, covariance = latents_moments(entries, shares)
    mean, std = mean.float(), covariance.diagonal().sqrt().clamp(min=1e-4).float()
    codec.config.latents_mean, codec.config.latents_std = tuple(mean.tolist()), tuple(std.tolist())
    codec.quantizer.channel_scale.copy_(std)
    codec.quantizer.offset.copy_(-mean / std)


@torch.no_grad()
def decoded_by_both(
    codec: RealTimeJazzCodec,
    model: EncodecModel,
    levels: int,
    basis: torch.Tensor | None,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (1, latent_dim, frames), not normalised, of the same old codes of `levels` levels: ours, theirs."""
    codes = torch.randint(model.config.codebook_size, (1, levels, 200), generator=generator)
    theirs = model.quantizer.decode(codes.transpose(0, 1))
    mean, std = torch.tensor(codec.config.latents_mean), torch.tensor(codec.config.latents_std)
    ours = codec.codes_to_latents(codes) * std[:, None] + mean[:, None]
    return ours, theirs if basis is None else basis @ theirs
