"""Stage 1, the codec: settings, losses, discriminators and the watch over a run.

    L_codec = L_recon + lambda_mel L_mel + lambda_adv (L_adv + L_feature) + L_vq

The weights are shares of one gradient at the audio (`GradientBalancer`). `training/train_codec.py` is the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from ..audio import HOP_LENGTH
from ..codec import RealTimeJazzCodec, RealTimeJazzCodecConfig
from ..codec.discriminators import CodecDiscriminator
from ..codec.losses import (
    GradientBalancer,
    adversarial_loss,
    discriminator_loss,
    feature_matching_loss,
    low_loss,
    mel_loss,
    partials_loss,
    pitch_contrast_loss,
    spectral_loss,
    structure_loss,
    waveform_loss,
)
from ..codec.quantizer import codebook_statistics
from .config import EvaluatedTrainConfig
from .run import TrainingRun, latest_checkpoint

# Loss name -> function of (round trip, original); those that need a discriminator are made by `Adversary`.
LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "spectral": spectral_loss,
    "mel": mel_loss,
    "pitch": pitch_contrast_loss,
    "low": low_loss,
    "partials": partials_loss,
    "structure": structure_loss,
    "waveform": waveform_loss,
}
ADVERSARIAL_LOSSES = ("adversarial", "feature")


@dataclass
class CodecTrainConfig(EvaluatedTrainConfig):
    data: str = ""  # takes of prepare_corpus.py
    stems: str | None = None  # takes made with --stems, mixed anew; those of data by default
    real: str | None = None  # recorded music of prepare_corpus.py --real
    shares: dict = field(default_factory=dict)  # how often mix, stems and real are drawn
    augment: bool = True
    model: dict = field(default_factory=dict)
    batch_size: int = 6
    crop_frames: int = 90  # at least 13 frames: the longest window of the loss
    latent_noise: float = 0.05  # standard deviation, relative to each channel's own
    loss_weights: dict = field(
        default_factory=lambda: {
            "spectral": 1.0,
            "mel": 2.0,
            "pitch": 0.7,
            "adversarial": 0.5,
            "feature": 0.7,
        }
    )
    commitment_weight: float = 1.0  # of L_vq, while encoder and quantiser learn together
    adversarial_from: int | None = None  # step; None: without discriminators
    adversarial_warmup: int = 200  # steps in which their weights rise, and the discriminators learn to see
    discriminator: dict = field(default_factory=dict)  # arguments of CodecDiscriminator
    discriminator_frames: int = 32  # of each crop, at a random place: their convolutions are the dearest part
    discriminator_every: int = 2  # steps between two of the discriminators
    discriminator_learning_rate: float = 3e-4
    quantize_from: int | None = None  # step from which encoder and quantiser learn together; None: not before
    freeze_encoder_at: int = 1000
    fit_clips: int = 100  # clips of 10 s for the transform start; four times as many for the quantiser
    watch_every: int = 100  # steps between two looks at the run's health

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.data:
            raise ValueError(
                "data is missing: give --data, a folder of takes (see training/prepare_corpus.py)."
            )
        known = (*LOSSES, *ADVERSARIAL_LOSSES)
        if unknown := sorted(set(self.loss_weights) - set(known)):
            raise ValueError(f"loss_weights: {unknown[0]!r} is no loss; known are {', '.join(known)}.")
        if not any(self.loss_weights.get(name, 0) > 0 for name in LOSSES):
            raise ValueError(
                f"loss_weights: one of {', '.join(LOSSES)} must be above 0; got {self.loss_weights}."
            )
        if self.adversarial_from is not None and self.discriminator_frames > self.crop_frames:
            raise ValueError(
                f"discriminator_frames={self.discriminator_frames} is more than crop_frames={self.crop_frames}."
            )


class Adversary:
    """The discriminators, their optimizer, and what they say of a round trip."""

    def __init__(self, run: TrainingRun, config: CodecTrainConfig):
        self.run, self.config = run, config
        try:
            discriminator = CodecDiscriminator(**config.discriminator).to(run.device)
        except TypeError as error:
            raise ValueError(f"discriminator: {error}; see CodecDiscriminator.") from error
        optimizer = torch.optim.AdamW(
            discriminator.parameters(), lr=config.discriminator_learning_rate, betas=(0.5, 0.9)
        )
        self.discriminator, self.optimizer = run.prepare(discriminator, optimizer)

    @property
    def share(self) -> float:
        """How much of their weights the adversarial losses have at this step: 0 to 1."""
        done = self.run.step - self.config.adversarial_from
        return min(1.0, max(0.0, done / max(1, self.config.adversarial_warmup)))

    def excerpt(self, *audios: torch.Tensor) -> list[torch.Tensor]:
        """The same random stretch of each (batch, 2, samples)."""
        samples = min(self.config.discriminator_frames * HOP_LENGTH, audios[0].shape[-1])
        start = int(torch.randint(audios[0].shape[-1] - samples + 1, ()))
        return [audio[..., start : start + samples] for audio in audios]

    def learn(self, fake: torch.Tensor, real: torch.Tensor) -> None:
        """A step of the discriminators on round trips and originals, where one is due."""
        if self.run.step % self.config.discriminator_every:
            return
        both = self.discriminator(torch.cat([real, fake.detach()]))
        of_real, of_fake = ([(logits.chunk(2)[i], maps) for logits, maps in both] for i in (0, 1))
        loss = discriminator_loss(of_real, of_fake)
        self.run.backward(loss, self.discriminator, self.optimizer, name="grad_norm_discriminator")
        self.run.log(discriminator=loss)

    def losses(self, fake: torch.Tensor, real: torch.Tensor) -> dict[str, torch.Tensor]:
        """The adversarial and the feature matching loss of round trips."""
        self.discriminator.requires_grad_(False)
        with torch.no_grad():
            of_real = self.discriminator(real)
        of_fake = self.discriminator(fake)
        self.discriminator.requires_grad_(True)
        return {"adversarial": adversarial_loss(of_fake), "feature": feature_matching_loss(of_real, of_fake)}


class CodecLoss:
    """All losses of a round trip, balanced, as one whose gradient the codec gets."""

    def __init__(self, run: TrainingRun, config: CodecTrainConfig):
        self.run, self.config = run, config
        self.weights = {name: weight for name, weight in config.loss_weights.items() if weight > 0}
        self.adversary = None
        if config.adversarial_from is not None:
            self.adversary = Adversary(run, config)
        self.balancer = GradientBalancer(self.weights)
        run.accelerator.register_for_checkpointing(self.balancer)

    def __call__(self, estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """estimate, target (batch, 2, samples) -> the loss to go backward from; discriminators learn on the way."""
        losses = {name: LOSSES[name](estimate, target) for name in self.weights if name in LOSSES}
        if self.adversary is not None and self.run.step >= self.config.adversarial_from:
            fake, real = self.adversary.excerpt(estimate, target)
            self.adversary.learn(fake, real)
            if share := self.adversary.share:
                losses |= {k: v for k, v in self.adversary.losses(fake, real).items() if k in self.weights}
                for name in ADVERSARIAL_LOSSES:
                    self.balancer.weights[name] = share * self.weights.get(name, 0.0)
        loss, norms = self.balancer(losses, estimate)
        self.run.log(**losses, **{f"pull_{name}": norm for name, norm in norms.items()})
        kept = [self.weights[name] * losses[name].detach() for name in self.weights if name in LOSSES]
        self.reconstruction = torch.stack(
            kept
        ).sum()  # what a watch looks at: discriminators move, this should fall
        return loss


def draw_levels(rows: int, codec: RealTimeJazzCodecConfig) -> torch.Tensor:
    """How many levels of codes each row goes through: half the rows none (0), a third the standard number, and the
    others any number from 1 to all."""
    counts = torch.randint(1, codec.total_codebooks + 1, (rows,))
    draw = torch.rand(rows)
    counts = torch.where(draw < 5 / 6, codec.num_codebooks, counts)
    return torch.where(draw < 0.5, 0, counts)


def codec_step(
    run: TrainingRun,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    codec_loss: CodecLoss,
    batch: dict[str, torch.Tensor],
    frozen: bool,
    together: bool,
) -> torch.Tensor | None:
    """One step of `model`, a prepared codec; the codes (n, levels) that its latents went through, if they did.

    Args:
        batch: "audio" (batch, 2, samples) and "start_frame" (batch,).
        frozen: the encoder is fixed, and the decoder learns on latents and codes. together: encoder and quantiser
            learn at once.
    """
    config, audio = codec_loss.config, batch["audio"]
    codec = run.accelerator.unwrap_model(model)
    # The encoder's first frames look into silence, which no clip begins with in the middle of a take; so do its last
    # where low tones are measured ahead.
    skip = min(6, config.crop_frames // 4) * HOP_LENGTH
    end = audio.shape[-1] - min(codec.config.frames_ahead, config.crop_frames // 4) * HOP_LENGTH
    levels = draw_levels(len(audio), codec.config) if frozen or together else None
    with run.accelerator.accumulate(model):
        out = model(audio, levels=levels, latent_noise=config.latent_noise, start_frame=batch["start_frame"])
        loss = codec_loss(out.audio[..., skip:end], audio[..., skip:end])
        if together:
            loss = loss + config.commitment_weight * out.quantizer.loss
            run.log(commitment=out.quantizer.loss)
        run.backward(loss, model, optimizer)
    return None if levels is None else out.quantizer.codes.transpose(1, 2).flatten(0, 1)


class TrainingFailed(RuntimeError):
    """A run that cannot become good any more; the message names its last good checkpoint."""


class CodecWatch:
    """Stops a run that explodes or loses a codebook, before its good checkpoints are gone.

    A run explodes where the median of the loss between two looks is above `most` times its lowest. A codebook is
    lost where fewer than `least_usage` of the entries that could have been chosen were.
    """

    def __init__(self, run: TrainingRun, codebook_size: int, most: float = 2.0, least_usage: float = 0.2):
        self.run, self.size = run, codebook_size
        self.most, self.least_usage = most, least_usage
        self.lowest = float("inf")
        self.values: list[torch.Tensor] = []
        self.codes: list[torch.Tensor] = []

    def see(self, loss: torch.Tensor, codes: torch.Tensor | None = None) -> None:
        """Take in a step: its loss, and codes (n, levels) where there are any."""
        self.values.append(loss)  # tensors, looked at later: a GPU need not be waited for at each step
        if codes is not None:
            self.codes.append(codes)

    def look(self) -> None:
        """Judge the steps since the last look; raises `TrainingFailed`."""
        loss = float(np.median(torch.stack(self.values).float().cpu().numpy())) if self.values else 0.0
        self.values.clear()
        reasons = []
        if not loss <= self.most * self.lowest:
            reasons.append(f"the loss is {loss:.3g}, its lowest was {self.lowest:.3g}")
        for level, usage, perplexity in self._codebooks():
            self.run.log_now(**{f"usage_{level}": usage, f"perplexity_{level}": perplexity})
            if usage < self.least_usage:
                reasons.append(f"codebook {level} is lost: {usage:.0%} of what could be chosen is in use")
        self.run.healthy = not reasons
        if reasons:
            good = latest_checkpoint(self.run.output_dir)
            raise TrainingFailed(
                f"stopped at step {self.run.step}: {'; '.join(reasons)}. The last good checkpoint is "
                f"{good or 'none'}: start again from it with a lower learning_rate or fewer adversarial losses."
            )
        self.lowest = min(self.lowest, loss)

    def _codebooks(self):
        if not self.codes:
            return
        codes = torch.cat(self.codes).cpu()
        self.codes.clear()
        for level in range(codes.shape[1]):
            perplexity, usage = codebook_statistics(codes[:, level], self.size)
            # With fewer codes than entries not all can be in use.
            possible = min(1.0, len(codes) / self.size)
            yield level, float(usage) / possible, float(perplexity)


def freeze_encoder(run: TrainingRun, codec: RealTimeJazzCodec, clips: list[torch.Tensor]) -> None:
    """Fix the latents: averaged weights, statistics, quantiser; both copies of the model get them."""
    if run.ema is not None:
        codec.load_state_dict(run.ema.module.state_dict())
    fit_quantizer(run, codec, clips)
    run.print("encoder frozen")


@torch.no_grad()
def fit_quantizer(run: TrainingRun, codec: RealTimeJazzCodec, clips: list[torch.Tensor]) -> None:
    """Statistics of the latents and a quantiser fitted to them, in the model and its average."""
    clips = [clip.to(run.device) for clip in clips]
    codec.fit_statistics(clips)
    left = codec.fit_codes(clips, generator=torch.Generator().manual_seed(0))
    run.print(f"variance left after each level: {[round(x, 3) for x in left]}")
    if run.ema is not None:
        run.ema.module.load_state_dict(codec.state_dict())
        run.ema.module.config.latents_mean = codec.config.latents_mean
        run.ema.module.config.latents_std = codec.config.latents_std


class LatentStatistics:
    """Keeps the latents' statistics, which live in the config, in the checkpoints."""

    def __init__(self, *models: nn.Module):
        self.models = models

    def state_dict(self) -> dict:
        config = self.models[0].config
        return {"mean": config.latents_mean, "std": config.latents_std}

    def load_state_dict(self, state: dict) -> None:
        for model in self.models:
            model.config.latents_mean, model.config.latents_std = state["mean"], state["std"]


__all__ = [
    "LOSSES",
    "Adversary",
    "CodecLoss",
    "CodecTrainConfig",
    "CodecWatch",
    "LatentStatistics",
    "TrainingFailed",
    "codec_step",
    "draw_levels",
    "fit_quantizer",
    "freeze_encoder",
]
