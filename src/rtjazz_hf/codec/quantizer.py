"""Residual vector quantisation (Zeghidour et al., 2021, section III-C): latents <-> codes.

Level after level, the nearest entry of a codebook is subtracted from what the levels before it left over; the
codes of a frame are the entries chosen, its latents their sum. All vectors live in a scaled space,
`(latents - offset) * channel_scale`, so that channels which the ear needs count for more in every distance.

A level may be factorised (Yu et al., 2021; Kumar et al., 2023): distances are taken in a small code space
that a linear projection opens, and a second one leads back. Projections have no bias, so the sum over levels
of effective vectors plus one `offset` always equals the decoded latents, for any number of levels.

Codebooks start by k-means on the first training batch, or are fitted to given data by `fit`. In training they
follow the data by exponential moving averages (van den Oord et al., 2017, appendix A), or by gradients;
entries that fall out of use restart beside entries that are much used, and halve their work. The gradient
reaches the encoder straight through the sum of all levels, and by the commitment loss. Projections start as
principal components of the residual and go on as its linear autoencoder, apart from the codes: gradients
through the codes would stretch the code space without end, or shrink it to please the commitment loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .kmeans import MAX_DISTANCES, SPLIT, cluster_means, kmeans, nearest, random_index

UPDATES = ("ema", "gradient")
MAX_CODEBOOKS = 32
KMEANS_START_VECTORS = 20_000
KMEANS_START_ITERATIONS = 10


@dataclass
class QuantizerOutput:
    """What `ResidualVectorQuantizer.forward` gives.

    quantized (batch, latent_dim, frames): decoded latents, with a straight-through gradient; rows that
        quantiser dropout left un-quantised come back as they were.
    codes (batch, num_codebooks, frames), int64: of all levels, those that dropout left out included.
    loss (): commitment loss, and those of codebooks and projections that learn by gradient; weighted.
    perplexity, usage (num_codebooks,): of this batch; exp(entropy in nats), and the share of entries chosen.
    num_codebooks_used (batch,): levels that are in `quantized`; 0 = un-quantised.
    """

    quantized: torch.Tensor
    codes: torch.Tensor
    loss: torch.Tensor
    perplexity: torch.Tensor
    usage: torch.Tensor
    num_codebooks_used: torch.Tensor


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


class ResidualVectorQuantizer(nn.Module):
    """Several levels of vector quantisation, each on what the one before left over.

    Args:
        codebook_dim (`int`, *optional*): dimensions of each level's code space; None or `latent_dim`: no
            projections.
        update (`str`): "ema" (moving averages in the training forward pass) or "gradient" (codebook loss).
        decay (`float`): of the moving averages, per training step.
        dead_threshold (`float`): an entry restarts when it is chosen less often than this share of the mean.
        quantizer_dropout (`float`): in training, share of rows that keep a random number of levels, 1 to all.
        unquantized_rate (`float`): in training, share of rows that pass un-quantised.

    Raises:
        ValueError: for sizes out of range or an unknown `update`.
    """

    def __init__(
        self,
        latent_dim: int = 64,
        codebook_dim: int | None = None,
        codebook_size: int = 2048,
        num_codebooks: int = 4,
        update: str = "ema",
        decay: float = 0.99,
        dead_threshold: float = 0.1,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        quantizer_dropout: float = 0.0,
        unquantized_rate: float = 0.0,
    ):
        super().__init__()
        codebook_dim = latent_dim if codebook_dim is None else codebook_dim
        if not 1 <= codebook_dim <= latent_dim:
            raise ValueError(f"codebook_dim={codebook_dim} must be from 1 to latent_dim={latent_dim}.")
        if not 1 <= num_codebooks <= MAX_CODEBOOKS:
            raise ValueError(f"num_codebooks={num_codebooks} must be from 1 to {MAX_CODEBOOKS}.")
        if codebook_size < 2:
            raise ValueError(f"codebook_size={codebook_size} must be at least 2.")
        if update not in UPDATES:
            raise ValueError(f"update={update!r} is unknown; use one of {', '.join(UPDATES)}.")
        if min(quantizer_dropout, unquantized_rate) < 0 or quantizer_dropout + unquantized_rate > 1:
            raise ValueError(
                f"quantizer_dropout={quantizer_dropout} and unquantized_rate={unquantized_rate} are shares "
                "of the rows: not negative, and at most 1 together."
            )
        self.latent_dim = latent_dim
        self.codebook_size = codebook_size
        self.num_codebooks = num_codebooks
        self.commitment_weight = commitment_weight
        self.codebook_weight = codebook_weight
        self.quantizer_dropout = quantizer_dropout
        self.unquantized_rate = unquantized_rate
        self.register_buffer("offset", torch.zeros(latent_dim))
        self.register_buffer("channel_scale", torch.ones(latent_dim))
        self.layers = nn.ModuleList(
            VectorQuantizer(latent_dim, codebook_dim, codebook_size, update, decay, dead_threshold)
            for _ in range(num_codebooks)
        )

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Statistics of an untrained quantiser; the levels have their own `reset_parameters`."""
        init.zeros_(self.offset)
        init.ones_(self.channel_scale)

    @property
    def is_initialized(self) -> bool:
        """Whether the codebooks have seen data."""
        return all(bool(layer.inited) for layer in self.layers)

    @torch.no_grad()
    def set_channel_weights(self, weights: torch.Tensor | None) -> None:
        """Weight of each latent channel (latent_dim,) in squared distances; only relative size matters."""
        if self.is_initialized:
            raise ValueError("The codebooks are fitted already: pass the weights to `fit`, which fits anew.")
        self._set_channel_weights(weights)

    def _set_channel_weights(self, weights: torch.Tensor | None) -> None:
        if weights is None:
            self.channel_scale.fill_(1.0)
            return
        if weights.shape != (self.latent_dim,) or not bool((weights > 0).all()):
            raise ValueError(
                f"Channel weights must be {self.latent_dim} positive numbers, got shape "
                f"{tuple(weights.shape)} with minimum {weights.min().item():.3g}."
            )
        self.channel_scale.copy_((weights.float() / weights.float().mean()).sqrt())

    def forward(
        self,
        latents: torch.Tensor,
        num_codebooks: int | None = None,
        generator: torch.Generator | None = None,
    ) -> QuantizerOutput:
        """latents (batch, latent_dim, frames) -> `QuantizerOutput`.

        In training mode the codebooks start and follow the data, and dropout applies unless `num_codebooks`
        asks for so many levels. `generator` makes dropout, k-means start and restarts repeatable.
        """
        batch, _, frames = self._check_latents(latents)
        dropout = num_codebooks is None
        num_codebooks = self._check_num_codebooks(num_codebooks)
        used = self._draw_num_codebooks(batch, num_codebooks, dropout, generator).to(latents.device)

        with torch.autocast(latents.device.type, enabled=False):
            residual = self._scale(latents)  # (batch * frames, latent_dim)
            total = torch.zeros_like(residual)
            all_codes, losses, perplexities, usages = [], [], [], []
            for k, layer in enumerate(self.layers[:num_codebooks]):
                target = residual.detach()
                if self.training and not layer.inited:
                    layer.start(target, generator)
                projected = layer.project(target)
                codes, _ = nearest(projected.detach(), layer.embed.detach().float())
                entries = F.embedding(codes, layer.embed.float())
                vectors = layer.expand(entries).detach()

                error = self.commitment_weight * (residual - vectors).square().mean(dim=1)
                if layer.update == "gradient":
                    pull = (projected.detach() - entries).square().mean(dim=1)
                    error = error + self.codebook_weight * pull
                if layer.in_proj is not None:
                    rebuilt = (target - layer.expand(projected)).square().mean(dim=1)
                    error = error + self.codebook_weight * rebuilt
                active = (used > k).repeat_interleave(frames).to(error.dtype)
                losses.append((error * active).sum() / active.sum().clamp(min=1))

                total = total + active[:, None] * vectors
                residual = residual - vectors
                all_codes.append(codes.view(batch, frames))
                perplexity, usage = codebook_statistics(codes, self.codebook_size)
                perplexities.append(perplexity)
                usages.append(usage)
                if self.training:
                    layer.follow(projected.detach(), codes, generator)

            decoded = self._unscale(total, batch).to(latents.dtype)
            decoded = torch.where((used == 0)[:, None, None], latents, decoded)
        return QuantizerOutput(
            quantized=latents + (decoded - latents).detach(),
            codes=torch.stack(all_codes, dim=1),
            loss=torch.stack(losses).mean(),
            perplexity=torch.stack(perplexities),
            usage=torch.stack(usages),
            num_codebooks_used=used,
        )

    @torch.no_grad()
    def encode(
        self, latents: torch.Tensor, num_codebooks: int | None = None, num_beams: int = 1
    ) -> torch.Tensor:
        """latents (batch, latent_dim, frames) -> codes (batch, num_codebooks, frames), int64.

        With `num_beams` > 1 each level keeps that many candidates per frame, and the sequence of codes with
        the least error in the end wins: about 0.3 dB less error with 4 beams, at 5 times the work. Each frame
        is searched by itself, so splits of a stream change nothing.
        """
        batch, _, frames = self._check_latents(latents)
        num_codebooks = self._check_num_codebooks(num_codebooks)
        with torch.autocast(latents.device.type, enabled=False):
            residual = self._scale(latents)
            if num_beams > 1:
                codes = self._beam_search(residual, num_codebooks, num_beams)
            else:
                codes = self._greedy_search(residual, num_codebooks)
        return codes.view(batch, frames, num_codebooks).transpose(1, 2).contiguous()

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """codes (batch, up to num_codebooks, frames) -> latents (batch, latent_dim, frames)."""
        if codes.ndim != 3 or not 1 <= codes.shape[1] <= self.num_codebooks:
            raise ValueError(
                f"codes must be (batch, 1 to {self.num_codebooks} codebooks, frames), "
                f"got {tuple(codes.shape)}."
            )
        if codes.is_floating_point():
            raise ValueError(f"codes must be integers, got {codes.dtype}.")
        # On a GPU the look at the values would wait for the stream, and lookups are bounds-checked anyway.
        if codes.device.type == "cpu" and codes.numel():
            low, high = int(codes.min()), int(codes.max())
            if low < 0 or high >= self.codebook_size:
                raise ValueError(f"codes must be from 0 to {self.codebook_size - 1}, got {low} to {high}.")
        with torch.autocast(codes.device.type, enabled=False):
            total = sum(
                layer.expand(F.embedding(codes[:, k].reshape(-1).long(), layer.embed.float()))
                for k, layer in enumerate(self.layers[: codes.shape[1]])
            )
            return self._unscale(total, codes.shape[0]).to(self.layers[0].embed.dtype)

    @torch.no_grad()
    def codebook_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Effective vectors (num_codebooks, codebook_size, latent_dim) and offset (latent_dim,).

        `decode(codes)` is the sum over levels of the vectors chosen, plus the offset.
        """
        vectors = torch.stack([layer.vectors() for layer in self.layers]) / self.channel_scale.float()
        return vectors, self.offset.float()

    @torch.no_grad()
    def fit(
        self,
        latents: torch.Tensor,
        iterations: int = 12,
        weights: torch.Tensor | None = None,
        max_vectors: int = 100_000,
        generator: torch.Generator | None = None,
    ) -> list[float]:
        """Fit offset, projections and all codebooks to latents (n, latent_dim) of a frozen encoder, anew.

        K-means level by level on the residuals of the level before. 300,000 vectors of 64 channels and
        4 x 2,048 entries take about a minute on one CPU core.

        Args:
            iterations (`int`): of k-means per level; all but the last two on at most `max_vectors` vectors.
            weights (`torch.Tensor` of shape `(latent_dim,)`, *optional*): of channels in squared distances.

        Returns:
            `list[float]`: the share of the (weighted) variance left over after 1, 2, ... levels.
        """
        if latents.ndim != 2 or latents.shape[1] != self.latent_dim or latents.shape[0] < 2:
            raise ValueError(
                f"latents to fit must be (at least 2 vectors, {self.latent_dim}), got {tuple(latents.shape)}."
            )
        if not bool(torch.isfinite(latents).all()):
            raise ValueError(
                "latents to fit must be finite, got NaN or Inf: check the encoder that made them."
            )
        self._set_channel_weights(weights)
        self.offset.copy_(latents.float().mean(dim=0))
        residual = (latents.float() - self.offset.float()) * self.channel_scale.float()
        variance = residual.square().mean()
        left_over = []
        for layer in self.layers:
            layer.fit(residual, iterations, max_vectors, generator)
            residual -= layer.vectors()[layer.nearest(residual)]
            left_over.append((residual.square().mean() / variance).item())
        return left_over

    def _greedy_search(self, residual: torch.Tensor, num_codebooks: int) -> torch.Tensor:
        codes = []
        for layer in self.layers[:num_codebooks]:
            codes.append(layer.nearest(residual))
            residual = residual - layer.vectors()[codes[-1]]
        return torch.stack(codes, dim=1)

    def _beam_search(self, x: torch.Tensor, num_codebooks: int, num_beams: int) -> torch.Tensor:
        """x (n, latent_dim), scaled -> codes (n, num_codebooks), judged in latent space, not code space."""
        levels = [layer.vectors() for layer in self.layers[:num_codebooks]]
        norms = [vectors.square().sum(dim=1) / 2 for vectors in levels]
        found = []
        for part in x.split(max(1, MAX_DISTANCES // (num_beams * self.codebook_size))):
            n = part.shape[0]
            residual = part[:, None]  # (n, beams, latent_dim)
            codes = part.new_zeros(n, 1, 0, dtype=torch.long)  # (n, beams, levels so far)
            # Half the squared error of a beam, but for the half squared norm of x, which all beams share.
            error = part.new_zeros(n, 1)
            for vectors, norm in zip(levels, norms):
                change = torch.addmm(norm, residual.flatten(0, 1), vectors.T, alpha=-1)
                candidates = (error[..., None] + change.view(*error.shape, self.codebook_size)).flatten(1)
                keep = min(num_beams, candidates.shape[1])
                error, index = candidates.topk(keep, dim=1, largest=False)
                beam, code = index // self.codebook_size, index % self.codebook_size
                residual = residual.gather(1, beam[..., None].expand(-1, -1, self.latent_dim)) - vectors[code]
                codes = torch.cat(
                    [codes.gather(1, beam[..., None].expand(-1, -1, codes.shape[2])), code[..., None]], dim=2
                )
            found.append(codes[torch.arange(n, device=x.device), error.argmin(dim=1)])
        return torch.cat(found) if found else x.new_zeros(0, num_codebooks, dtype=torch.long)

    def _scale(self, latents: torch.Tensor) -> torch.Tensor:
        """(batch, latent_dim, frames) -> (batch * frames, latent_dim), float32."""
        x = latents.float().transpose(1, 2).reshape(-1, self.latent_dim)
        return (x - self.offset.float()) * self.channel_scale.float()

    def _unscale(self, x: torch.Tensor, batch: int) -> torch.Tensor:
        x = x / self.channel_scale.float() + self.offset.float()
        return x.view(batch, x.shape[0] // batch, self.latent_dim).transpose(1, 2).contiguous()

    def _draw_num_codebooks(self, batch: int, num_codebooks: int, dropout: bool, generator) -> torch.Tensor:
        """Levels that each row keeps: (batch,), 0 for an un-quantised row."""
        used = torch.full((batch,), num_codebooks)
        if not (self.training and dropout):
            return used
        device = "cpu" if generator is None else generator.device
        draw = torch.rand(batch, generator=generator, device=device).cpu()
        fewer = torch.randint(1, num_codebooks + 1, (batch,), generator=generator, device=device).cpu()
        used = torch.where(draw < self.quantizer_dropout, fewer, used)
        return torch.where(draw >= 1 - self.unquantized_rate, 0, used)

    def _check_latents(self, latents: torch.Tensor) -> torch.Size:
        if latents.ndim != 3 or latents.shape[1] != self.latent_dim:
            raise ValueError(
                f"latents must be (batch, {self.latent_dim}, frames), got shape {tuple(latents.shape)}."
            )
        return latents.shape

    def _check_num_codebooks(self, num_codebooks: int | None) -> int:
        if num_codebooks is None:
            return self.num_codebooks
        if not 1 <= num_codebooks <= self.num_codebooks:
            raise ValueError(
                f"num_codebooks={num_codebooks} must be from 1 to {self.num_codebooks}, the model's levels."
            )
        return num_codebooks


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
