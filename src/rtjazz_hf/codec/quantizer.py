"""Residual vector quantisation (Zeghidour et al., 2021, section III-C): latents <-> codes.

Level after level, the nearest entry of a codebook is subtracted from what the levels before it left over; the
codes of a frame are the entries chosen, its latents their sum. All vectors live in a scaled space,
`(latents - offset) * channel_scale`, so that channels which the ear needs count for more in every distance.

A level may be factorised (Yu et al., 2021; Kumar et al., 2023): distances are taken in a small code space
that a linear projection opens, and a second one leads back. Projections have no bias, so the sum over levels
of effective vectors plus one `offset` always equals the decoded latents, for any number of levels.

Latents change slowly. With `prediction_levels`, the first levels code what a frame has beyond a prediction
from the frame before, `prediction` times what these levels had added up to there (`code_search` has the
recursion); further levels refine each frame without a memory. So codes mean something in their order only:
a stream carries `state` along, and one that is entered in the middle needs about a third of a second.

Codebooks start by k-means on the first training batch, or are fitted to given data by `fit`. In training they
follow the data by exponential moving averages (van den Oord et al., 2017, appendix A), or by gradients;
entries that fall out of use restart beside entries that are much used, and halve their work. The gradient
reaches the encoder straight through the sum of all levels, and by the commitment loss. Projections start as
principal components of the residual and go on as its linear autoencoder, apart from the codes: gradients
through the codes would stretch the code space without end, or shrink it to please the commitment loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init

from .code_search import beam_search, closed_loop, run_prediction
from .predictive_fit import fit_closed_loop, fit_prediction, predict
from .vector_quantizer import VectorQuantizer, broadcast_, codebook_statistics

UPDATES = ("ema", "gradient")
MAX_CODEBOOKS = 32


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


class ResidualVectorQuantizer(nn.Module):
    """Several levels of vector quantisation, each on what the one before left over.

    Args:
        codebook_dim (`int` or one per level, *optional*): dimensions of a level's code space; None or
            `latent_dim`: no projections.
        prediction_levels (`int`): how many levels, from the first, predict a frame from the one before;
            0: each frame is coded by itself.
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
        codebook_dim: int | Sequence[int] | None = None,
        codebook_size: int = 2048,
        num_codebooks: int = 4,
        update: str = "ema",
        decay: float = 0.99,
        dead_threshold: float = 0.1,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        quantizer_dropout: float = 0.0,
        unquantized_rate: float = 0.0,
        prediction_levels: int = 0,
    ):
        super().__init__()
        if not 1 <= num_codebooks <= MAX_CODEBOOKS:
            raise ValueError(f"num_codebooks={num_codebooks} must be from 1 to {MAX_CODEBOOKS}.")
        codebook_dims = level_dims(codebook_dim, latent_dim, num_codebooks)
        if not 0 <= prediction_levels <= num_codebooks:
            raise ValueError(
                f"prediction_levels={prediction_levels} must be from 0 to num_codebooks={num_codebooks}."
            )
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
        self.prediction_levels = prediction_levels
        if prediction_levels:  # checkpoints without prediction have no such tensor
            self.register_buffer("prediction", torch.zeros(latent_dim))
            self.register_buffer("start", torch.zeros(latent_dim))
        self.layers = nn.ModuleList(
            VectorQuantizer(latent_dim, dim, codebook_size, update, decay, dead_threshold)
            for dim in codebook_dims
        )

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Statistics of an untrained quantiser; the levels have their own `reset_parameters`."""
        init.zeros_(self.offset)
        init.ones_(self.channel_scale)
        if self.prediction_levels:
            init.zeros_(self.prediction)
            init.zeros_(self.start)

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
        levels: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        mid_stream: bool = False,
    ) -> QuantizerOutput:
        """latents (batch, latent_dim, frames) -> `QuantizerOutput`.

        In training mode the codebooks start and follow the data, and dropout applies unless `num_codebooks` or
        `levels` asks for so many levels. `generator` makes dropout, k-means start and restarts repeatable. With
        prediction, a row that keeps fewer levels predicts from those.

        Args:
            num_codebooks (`int`, *optional*): levels of every row.
            levels (`torch.Tensor` of shape `(batch,)`, *optional*): of each row, 0 for un-quantised.
            mid_stream (`bool`): rows are cut from the middle of streams, whose codes had time to arrive: their first
                frame is predicted as it is. By default each row is the start of a stream.
        """
        batch, _, frames = self._check_latents(latents)
        dropout = num_codebooks is None
        num_codebooks = self._check_num_codebooks(num_codebooks)
        if levels is None:
            used = self._draw_num_codebooks(batch, num_codebooks, dropout, generator)
        else:
            used = levels
        used = used.to(latents.device)

        with torch.autocast(latents.device.type, enabled=False):
            x = self._scale(latents)  # (batch, frames, latent_dim)
            if self.training and not self.is_initialized:
                self._start(x.detach(), generator)
            # Un-quantised rows train the codebooks as those of all levels do.
            followed = torch.where(used == 0, num_codebooks, used)
            given, predicted = self._search_loop(x.detach(), num_codebooks, followed, mid_stream)
            residual, total = (x - predicted).flatten(0, 1), predicted.flatten(0, 1)
            all_codes, losses, statistics = [], [], []
            for k, layer in enumerate(self.layers[:num_codebooks]):
                target = residual.detach()
                codes = given[..., k].flatten() if k < given.shape[-1] else layer.nearest(target)
                vectors = layer.decode(codes).detach()
                active = (used > k).repeat_interleave(frames)
                error = self._level_error(layer, residual, vectors, codes)
                losses.append((error * active).sum() / active.sum().clamp(min=1))
                if self.training:
                    # In the loop of fewer levels, a further one meets what it will never be used for.
                    rows = (followed > k).repeat_interleave(frames) if k < given.shape[-1] else slice(None)
                    layer.follow(layer.project(target[rows]).detach(), codes[rows], generator)
                total = total + active[:, None] * vectors
                residual = residual - vectors
                all_codes.append(codes.view(batch, frames))
                statistics.append(codebook_statistics(codes, self.codebook_size))

            decoded = self._unscale(total.view(x.shape)).to(latents.dtype)
            decoded = torch.where((used == 0)[:, None, None], latents, decoded)
        perplexity, usage = (torch.stack(values) for values in zip(*statistics))
        return QuantizerOutput(
            quantized=latents + (decoded - latents).detach(),
            codes=torch.stack(all_codes, dim=1),
            loss=torch.stack(losses).mean(),
            perplexity=perplexity,
            usage=usage,
            num_codebooks_used=used,
        )

    @torch.no_grad()
    def encode(
        self,
        latents: torch.Tensor,
        num_codebooks: int | None = None,
        num_beams: int = 1,
        state: torch.Tensor | None = None,
        return_state: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor | None]:
        """latents (batch, latent_dim, frames) -> codes (batch, num_codebooks, frames), int64.

        Without prediction each frame is searched by itself. With it, frames are searched one after the other, and
        the first `prediction_levels` codes of a frame are the same for all `num_codebooks` of at least so many.

        Args:
            num_beams (`int`): without prediction, each level keeps that many candidates per frame, and the
                sequence of codes with the least error in the end wins: about 0.3 dB less error with 4 beams, at 5
                times the work. In the loop of a prediction it is not done: 2 beams would gain 0.15 dB, and cost
                more than the whole search may.
            state (`torch.Tensor` of shape `(batch, latent_dim)`, *optional*): of the stream so far, of this
                method or of `decode`; `None` starts one.
            return_state (`bool`): give `(codes, state)`; `None` is the state without prediction.
        """
        batch, _, frames = self._check_latents(latents)
        num_codebooks = self._check_num_codebooks(num_codebooks)
        state = self._check_state(state, batch)
        with torch.autocast(latents.device.type, enabled=False):
            x = self._scale(latents)
            if self.prediction_levels:
                levels = [
                    layer.vectors() for layer in self.layers[: min(num_codebooks, self.prediction_levels)]
                ]
                codes, predicted, state = closed_loop(x, self.prediction.float(), levels, state)
                residual = x - predicted
                codes, residual = list(codes.flatten(0, 1).unbind(-1)), residual.flatten(0, 1)
                for k in range(len(codes)):
                    residual = residual - self.layers[k].decode(codes[k])
            elif num_beams > 1:
                levels = [layer.vectors() for layer in self.layers[:num_codebooks]]
                codes, residual = list(beam_search(x.flatten(0, 1), levels, num_beams).unbind(-1)), None
            else:
                codes, residual = [], x.flatten(0, 1)
            for layer in self.layers[len(codes) : num_codebooks]:
                codes.append(layer.nearest(residual))
                residual = residual - layer.decode(codes[-1])
        codes = torch.stack(codes).view(num_codebooks, batch, frames).transpose(0, 1).contiguous()
        return (codes, state) if return_state else codes

    @torch.no_grad()
    def decode(
        self, codes: torch.Tensor, state: torch.Tensor | None = None, return_state: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor | None]:
        """codes (batch, up to num_codebooks, frames) -> latents (batch, latent_dim, frames).

        `state` and `return_state` as in `encode`: any split of a stream decodes to the same latents.
        """
        self._check_codes(codes)
        state = self._check_state(state, codes.shape[0])
        with torch.autocast(codes.device.type, enabled=False):
            vectors = [
                layer.decode(codes[:, k].long()) for k, layer in enumerate(self.layers[: codes.shape[1]])
            ]
            total = sum(vectors[self.prediction_levels :])
            if self.prediction_levels:
                steps = sum(vectors[: self.prediction_levels])  # (batch, frames, latent_dim)
                base, state = run_prediction(steps, self.prediction.float(), state)
                total = base + total
            latents = self._unscale(total).to(self.layers[0].embed.dtype)
        return (latents, state) if return_state else latents

    def start_state(self, batch_size: int) -> torch.Tensor | None:
        """`state` before the first frame: (batch_size, latent_dim); `None` without prediction."""
        return self.start.float().repeat(batch_size, 1) if self.prediction_levels else None

    @torch.no_grad()
    def codebook_vectors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Effective vectors (num_codebooks, codebook_size, latent_dim) and offset (latent_dim,).

        Without prediction, `decode(codes)` is the sum over levels of the vectors chosen, plus the offset. With it, the
        vectors of the first `prediction_levels` levels add up over time too, as `code_search` says.
        """
        vectors = torch.stack([layer.vectors() for layer in self.layers]) / self.channel_scale.float()
        return vectors, self.offset.float()

    @torch.no_grad()
    def fit(
        self,
        latents: torch.Tensor | Sequence[torch.Tensor],
        iterations: int = 12,
        weights: torch.Tensor | None = None,
        max_vectors: int = 100_000,
        generator: torch.Generator | None = None,
        start: torch.Tensor | None = None,
    ) -> list[float]:
        """Fit offset, prediction, projections and all codebooks to latents of a frozen encoder, anew.

        K-means level by level on the residuals of the level before; with prediction, of the levels in its loop, on
        what the loop leaves to them (see `predictive_fit`). 300,000 vectors take about a minute on one CPU core with
        64 channels and 4 x 2,048 entries; about four with prediction and 128 channels.

        Args:
            latents: sequences `(frames, latent_dim)`, in a list or in one tensor `(clips, frames, latent_dim)`;
                without prediction also vectors in any order, `(n, latent_dim)`.
            iterations (`int`): of k-means per level; all but the last two on at most `max_vectors` vectors.
            weights (`torch.Tensor` of shape `(latent_dim,)`, *optional*): of channels in squared distances.
            start (`torch.Tensor` of shape `(latent_dim,)`, *optional*): latents that the first frame of a stream is
                predicted to have, such as those of silence; by default the mean of the sequences' first frames.

        Raises:
            ValueError: for other shapes, NaN, or vectors without an order where there is a prediction.

        Returns:
            `list[float]`: the share of the (weighted) variance left over with 1, 2, ... levels.
        """
        sequences = self._check_fit(latents)
        self._set_channel_weights(weights)
        self.offset.copy_(sum(x.sum(dim=0) for x in sequences) / sum(len(x) for x in sequences))
        sequences = [(x - self.offset.float()) * self.channel_scale.float() for x in sequences]
        variance = sum(x.square().sum().item() for x in sequences)
        variance /= sum(x.numel() for x in sequences)
        left_over, residual = [], None
        if self.prediction_levels:
            start = None if start is None else (start - self.offset.float()) * self.channel_scale.float()
            self._set_prediction(sequences, start)
            left_over, residual = fit_closed_loop(
                list(self.layers[: self.prediction_levels]), self.prediction.float(), self.start.float(),
                sequences, iterations, max_vectors, generator,
            )  # fmt: skip
        else:
            residual = torch.cat(sequences)
        for layer in self.layers[self.prediction_levels :]:
            layer.fit(residual, iterations, max_vectors, generator)
            residual = residual - layer.decode(layer.nearest(residual))
            left_over.append(residual.square().mean().item())
        return [error / variance for error in left_over]

    def _set_prediction(self, sequences: list[torch.Tensor], start: torch.Tensor | None = None) -> None:
        """From scaled sequences (frames, latent_dim); `start` is scaled too."""
        self.prediction.copy_(fit_prediction(sequences))
        start = torch.stack([x[0] for x in sequences]).mean(dim=0) if start is None else start
        # What is predicted from it is to be the first frame, where channels are predictable at all.
        self.start.copy_(start / self.prediction.float().clamp(min=0.5))

    @torch.no_grad()
    def _start(self, x: torch.Tensor, generator) -> None:
        """Start all levels on the first training batch (batch, frames, latent_dim), in the open loop."""
        if self.prediction_levels:
            self._set_prediction(list(x))
            broadcast_(self.prediction)
            broadcast_(self.start)
            x = torch.stack([row - predict(row, self.prediction.float(), self.start.float()) for row in x])
        residual = x.flatten(0, 1)
        for layer in self.layers:
            if not layer.inited:
                layer.start(residual, generator)
            residual = residual - layer.decode(layer.nearest(residual))

    def _search_loop(self, x: torch.Tensor, num_codebooks: int, used: torch.Tensor, mid_stream: bool):
        """Codes (batch, frames, levels in the loop) and the prediction (batch, frames, latent_dim), zeros without."""
        if not self.prediction_levels:
            return x.new_zeros(*x.shape[:2], 0, dtype=torch.long), torch.zeros_like(x)
        levels = [
            layer.vectors().detach() for layer in self.layers[: min(num_codebooks, self.prediction_levels)]
        ]
        start = x[:, 0] if mid_stream else self.start_state(len(x))
        codes, predicted, _ = closed_loop(x, self.prediction.float(), levels, start, used)
        return codes, predicted

    def _level_error(self, layer: VectorQuantizer, residual, vectors, codes) -> torch.Tensor:
        """Commitment, and what codebook and projections learn by gradient, of each vector (n,)."""
        error = self.commitment_weight * (residual - vectors).square().mean(dim=1)
        target = residual.detach()
        projected = layer.project(target)
        if layer.update == "gradient":
            pull = (projected.detach() - F.embedding(codes, layer.embed.float())).square().mean(dim=1)
            error = error + self.codebook_weight * pull
        if layer.in_proj is not None:
            rebuilt = (target - layer.expand(projected)).square().mean(dim=1)
            error = error + self.codebook_weight * rebuilt
        return error

    def _scale(self, latents: torch.Tensor) -> torch.Tensor:
        """(batch, latent_dim, frames) -> (batch, frames, latent_dim), float32."""
        return (latents.float().transpose(1, 2) - self.offset.float()) * self.channel_scale.float()

    def _unscale(self, x: torch.Tensor) -> torch.Tensor:
        return (x / self.channel_scale.float() + self.offset.float()).transpose(1, 2).contiguous()

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

    def _check_codes(self, codes: torch.Tensor) -> None:
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

    def _check_state(self, state: torch.Tensor | None, batch: int) -> torch.Tensor | None:
        if not self.prediction_levels:
            return None
        if state is None:
            return self.start_state(batch)
        if state.shape != (batch, self.latent_dim):
            raise ValueError(
                f"the state of codes must be (batch, latent_dim) = {(batch, self.latent_dim)}, got "
                f"{tuple(state.shape)}: pass what this quantiser returned for the same streams."
            )
        return state.float()

    def _check_fit(self, latents: torch.Tensor | Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if self.prediction_levels and torch.is_tensor(latents) and latents.ndim == 2:
            raise ValueError(
                f"with prediction_levels={self.prediction_levels} the order of frames counts: give sequences, a list "
                f"of (frames, {self.latent_dim}) or one (clips, frames, {self.latent_dim}), not {tuple(latents.shape)}."
            )
        sequences = [latents] if torch.is_tensor(latents) and latents.ndim == 2 else list(latents)
        shapes = {tuple(x.shape) for x in sequences}
        if not shapes or any(
            len(shape) != 2 or shape[1] != self.latent_dim or shape[0] < 2 for shape in shapes
        ):
            raise ValueError(
                f"latents to fit must be (at least 2 vectors, {self.latent_dim}), or sequences of them, got "
                f"{', '.join(map(str, sorted(shapes))) or 'none'}."
            )
        if not all(bool(torch.isfinite(x).all()) for x in sequences):
            raise ValueError(
                "latents to fit must be finite, got NaN or Inf: check the encoder that made them."
            )
        return [x.float() for x in sequences]


def level_dims(codebook_dim: int | Sequence[int] | None, latent_dim: int, num_codebooks: int) -> list[int]:
    """Dimensions of the code space of each level; raises ValueError where they do not fit."""
    dims = codebook_dim
    if codebook_dim is None or isinstance(codebook_dim, int):
        dims = [latent_dim if codebook_dim is None else codebook_dim] * num_codebooks
    if len(dims) != num_codebooks:
        raise ValueError(f"codebook_dim has {len(dims)} numbers; num_codebooks is {num_codebooks}.")
    if wrong := [dim for dim in dims if not 1 <= dim <= latent_dim]:
        raise ValueError(f"codebook_dim={wrong[0]} must be from 1 to latent_dim={latent_dim}.")
    return list(dims)
