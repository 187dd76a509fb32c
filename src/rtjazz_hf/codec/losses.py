"""Spectral losses of the codec, on left, right, mid and side."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from .energies import pooled_energies
from .transforms import FLOOR
from .vector_quantizer import all_reduce_, process_count

# FFT size, hop, how its bins are pooled, and weight. Semitones where pitch is heard, and the melody counts twice; ERB
# bands where attacks are.
SPECTRAL_RESOLUTIONS = (
    (8192, 2560, "semitone", (28, 100), 1.0),
    (4096, 1280, "semitone", (48, 116), 2.0),
    (1024, 400, "band", 64, 1.0),
)
MEL_RESOLUTIONS = (
    (2048, 640, "mel", 128, 2.0),
    (512, 240, "mel", 32, 1.0),
)
# Bass lines: which note, and when it begins.
LOW_RESOLUTIONS = (
    (8192, 1280, "semitone", (26, 64), 1.0),
    (4096, 640, "semitone", (26, 64), 1.0),
)
RISE_FRAMES = 3  # of the second of them: 40 ms, within which an attack has happened
# What lies between partials: nearly a constant-Q transform, C3 to C7, at one step.
PARTIALS_HOP = 1280
PARTIALS = ((16384, (48, 66)), (8192, (66, 78)), (4096, (78, 96)))
# Where sound begins, swells and stands out of what is around it: ERB bands, FFT size, hop, how many.
STRUCTURE_RESOLUTIONS = ((2048, 640, 96), (768, 480, 64))
STRUCTURE_PATCH = (5, 6)  # bands, frames
STRUCTURE_MEAN, STRUCTURE_SPREAD = 0.2, 0.1  # squares of log energy below which differences do not count
STRUCTURE_FLOOR = 1e-7
LOW_FLOOR = 1e-7  # 70 dB under full scale a bass line does not rise
PEAK, VALLEY = 0.9, 0.2  # quantiles of a frame


def spectral_loss(estimate: torch.Tensor, target: torch.Tensor, sampling_rate: int = 48000) -> torch.Tensor:
    """Difference of energies in semitones and bands at three resolutions, on left, right, mid and side.

    Pooling makes it blind to phase and fair to noise: two takes of the same cymbal differ in every bin and agree in
    every band. See `pooled_difference` for what is averaged.

    Args:
        estimate, target (`torch.Tensor` of shape `(batch, 2, samples)`): at least 8,192 samples.
    """
    return pooled_difference(estimate, target, SPECTRAL_RESOLUTIONS, sampling_rate)


def mel_loss(estimate: torch.Tensor, target: torch.Tensor, sampling_rate: int = 48000) -> torch.Tensor:
    """The same for mel bands at two resolutions: at least 2,048 samples."""
    return pooled_difference(estimate, target, MEL_RESOLUTIONS, sampling_rate)


def pooled_difference(
    estimate: torch.Tensor, target: torch.Tensor, resolutions, sampling_rate: int
) -> torch.Tensor:
    """Absolute differences of log energy, and of amplitude relative to the mean amplitude (so that what is loud counts
    more), averaged over resolutions by their weights.

    In a process group the mean amplitude is that of the batches of all processes, which have to call this together.
    """
    total = 0.0
    for *resolution, weight in resolutions:
        a = pooled_energies(estimate.float(), *resolution, sampling_rate)
        b = pooled_energies(target.float(), *resolution, sampling_rate)
        a_root, b_root = (a + 1e-9).sqrt(), (b + 1e-9).sqrt()
        log_difference = (torch.log(a + FLOOR) - torch.log(b + FLOOR)).abs().mean()
        root_difference = (a_root - b_root).abs().mean() / (mean_of_all(b_root.mean()) + 0.003)
        total = total + weight * (log_difference + root_difference)
    return total / sum(weight for *_, weight in resolutions)


def low_loss(estimate: torch.Tensor, target: torch.Tensor, sampling_rate: int = 48000) -> torch.Tensor:
    """`pooled_difference` of the semitones from D1 to D#4 at two resolutions, and how differently they rise: log energy
    less that of 40 ms before. At least 8,192 samples."""
    (n_fft, hop, kind, size, _) = LOW_RESOLUTIONS[-1]
    rises = []
    for audio in (estimate, target):
        level = torch.log(
            pooled_energies(audio.float(), n_fft, hop, kind, size, sampling_rate)[:, :3] + LOW_FLOOR
        )
        rises.append(level[..., RISE_FRAMES:] - level[..., :-RISE_FRAMES])
    rise = (rises[0] - rises[1]).abs().mean()
    return pooled_difference(estimate, target, LOW_RESOLUTIONS, sampling_rate) + rise


def partial_levels(audio: torch.Tensor, sampling_rate: int = 48000) -> torch.Tensor:
    """Log energy of thirds of semitones, C3 to C7: (batch, left/right/mid, frames, thirds)."""
    parts = [
        pooled_energies(audio.float(), n_fft, PARTIALS_HOP, "third", size, sampling_rate)[:, :3]
        for n_fft, size in PARTIALS
    ]
    # 60 dB under the loudest third of the clip nothing counts.
    energy = torch.cat(parts, dim=2).transpose(2, 3)
    floor = energy.amax(dim=(1, 2, 3), keepdim=True).detach() * 1e-6 + FLOOR
    return torch.log(energy + floor)


def partials_loss(estimate: torch.Tensor, target: torch.Tensor, sampling_rate: int = 48000) -> torch.Tensor:
    """How differently partials stand out of what lies between them, in log energy: the difference of thirds of
    semitones less the mean of their frame, and of the 90th over the 20th percentile of a frame.

    Args:
        estimate, target (`torch.Tensor` of shape `(batch, 2, samples)`): more than 8,192 samples.
    """
    levels = [partial_levels(audio, sampling_rate) for audio in (estimate, target)]
    over = [level - level.mean(-1, keepdim=True) for level in levels]
    return (over[0] - over[1]).abs().mean() + valley_difference(*levels)


def valley_difference(estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Of what `partial_levels` gives: how far peaks stand over valleys, too little or too much; mean over frames."""
    places = torch.tensor([VALLEY, PEAK], device=estimate.device)
    (low, high), (low_, high_) = (torch.quantile(levels, places, dim=-1) for levels in (estimate, target))
    return ((high - low) - (high_ - low_)).abs().mean()


def structure_loss(
    estimate: torch.Tensor, target: torch.Tensor, sampling_rate: int = 48000
) -> torch.Tensor:
    """One minus the structural similarity of log energies in ERB bands, in patches of 5 bands and 6 frames, 80 and 60
    milliseconds (Wang et al., 2004; for sound Hines and Harte, 2012), on left, right and mid.

    Args:
        estimate, target (`torch.Tensor` of shape `(batch, 2, samples)`): at least 3,840 samples.
    """
    total = 0.0
    for n_fft, hop, bands in STRUCTURE_RESOLUTIONS:
        a, b = (
            torch.log(
                pooled_energies(audio.float(), n_fft, hop, "band", bands, sampling_rate)[:, :3] / STRUCTURE_FLOOR + 1
            )
            for audio in (estimate, target)
        )
        mean = [F.avg_pool2d(x, STRUCTURE_PATCH, 1) for x in (a, b, a * a, b * b, a * b)]
        spread = [(square - m * m).clamp(min=0) for m, square in zip(mean[:2], mean[2:4])]
        level = (2 * mean[0] * mean[1] + STRUCTURE_MEAN) / (mean[0].square() + mean[1].square() + STRUCTURE_MEAN)
        shared = mean[4] - mean[0] * mean[1]
        # The root of a product has no slope at 0, where a patch is silent or even.
        both = (spread[0] * spread[1] + 1e-6).sqrt()
        total = total + (1 - level * (shared + STRUCTURE_SPREAD) / (both + STRUCTURE_SPREAD)).mean()
    return total / len(STRUCTURE_RESOLUTIONS)


def mean_of_all(mean: torch.Tensor) -> torch.Tensor:
    """A mean over the batch of this process as that over the batches of all, which hold as much each; no gradient.

    What a loss is divided by is of the whole batch: else two processes would weigh a quiet row otherwise than one does.
    """
    mean = mean.detach().clone()
    all_reduce_(mean)
    return mean / process_count()


def pitch_contrast_loss(
    estimate: torch.Tensor, target: torch.Tensor, sampling_rate: int = 48000
) -> torch.Tensor:
    """One minus the correlation of semitone contrast, 250 Hz to 3 kHz: is the melody where it was?

    Contrast is the log energy of a semitone less the mean of the seven around it, so that the envelope of the
    spectrum and its level earn nothing.
    """
    contrasts = []
    for audio in (estimate, target):
        energy = pooled_energies(audio.float(), 4096, 1024, "semitone", (59, 103), sampling_rate)[:, :3]
        # 60 dB under the loudest semitone of the clip nothing counts.
        floor = energy.amax(dim=(1, 2, 3), keepdim=True).detach() * 1e-6 + 1e-9
        level = torch.log(energy + floor).transpose(2, 3)  # (batch, channels, frames, notes)
        around = F.avg_pool1d(level.flatten(0, 1), 7, 1)
        contrast = level[..., 3:-3].flatten(1) - around.unflatten(0, level.shape[:2]).flatten(1)
        contrasts.append(contrast - contrast.mean(1, keepdim=True))
    return 1 - torch.nn.functional.cosine_similarity(*contrasts, dim=1).mean()


def waveform_loss(estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Absolute difference of pre-emphasised samples, relative to the target's: for `phase="kept"` and SEANet.

    A first difference tilts by 6 dB an octave, or bass would be all that this loss sees.
    """
    emphasised = [audio[..., 1:] - 0.95 * audio[..., :-1] for audio in (estimate.float(), target.float())]
    scale = mean_of_all(emphasised[1].abs().mean())
    return (emphasised[0] - emphasised[1]).abs().mean() / (scale + 1e-3)


def discriminator_loss(real: list, fake: list) -> torch.Tensor:
    """Hinge loss of a discriminator (Lim and Ye, 2017) over its parts; what is above 1 or below -1 is settled."""
    losses = [
        F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
        for (real_logits, _), (fake_logits, _) in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


def adversarial_loss(fake: list) -> torch.Tensor:
    """Hinge loss of the codec: its round trips should pass for recordings."""
    return torch.stack([F.relu(1 - logits).mean() for logits, _ in fake]).mean()


def feature_matching_loss(real: list, fake: list) -> torch.Tensor:
    """Difference of the feature maps, relative to those of the recording (Defossez et al., 2022, equation 6)."""
    pairs = [
        (a.detach(), b)
        for (_, real_maps), (_, fake_maps) in zip(real, fake, strict=True)
        for a, b in zip(real_maps, fake_maps, strict=True)
    ]
    scales = mean_of_all(torch.stack([a.abs().mean() for a, _ in pairs])).clamp(min=1e-6)
    return (torch.stack([(a - b).abs().mean() for a, b in pairs]) / scales).mean()


class GradientBalancer:
    """Makes each loss pull at the audio as its weight says, however steep it is (Defossez et al., 2022, 3.4).

    The gradient of each loss at the model's output is divided by the moving average of its norm, so that the weights
    are shares of one gradient; the balanced gradient goes on into the model.

    Args:
        weights: loss name -> weight.
        total_norm (`float`): norm of the balanced gradient of a whole batch.
        decay (`float`): of the moving averages, per call.
    """

    def __init__(self, weights: dict[str, float], total_norm: float = 1.0, decay: float = 0.99):
        if not weights or min(weights.values()) < 0 or sum(weights.values()) <= 0:
            raise ValueError(f"weights must be positive numbers by the name of their loss, got {weights}.")
        self.weights, self.total_norm, self.decay = dict(weights), total_norm, decay
        self.averages: dict[str, tuple[float, float]] = {}  # sum and weight of the norms so far

    def __call__(
        self, losses: dict[str, torch.Tensor], audio: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """A loss whose gradient at `audio` is the balanced one, and the norm of each loss's own gradient.

        Args:
            losses: name -> loss (a scalar that depends on `audio`); names without a weight are refused.
            audio: the model's output, (batch, 2, samples), part of the graph.
        """
        if unknown := sorted(set(losses) - set(self.weights)):
            raise ValueError(
                f"losses without a weight: {', '.join(unknown)}; known are {', '.join(self.weights)}."
            )
        total = sum(self.weights[name] for name in losses)
        balanced, norms = torch.zeros_like(audio), {}
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, audio, retain_graph=True)
            norm = gradient.flatten(1).norm(dim=1).mean().reshape(1)
            all_reduce_(norm)
            norms[name] = norm.item() / process_count() ** 2  # of its share of the batch of all
            if not math.isfinite(norms[name]):
                balanced = balanced * float("nan")  # the step is left out by whoever looks at the gradient
                continue
            summed, weight = self.averages.get(name, (0.0, 0.0))
            summed, weight = summed * self.decay + norms[name], weight * self.decay + 1
            self.averages[name] = (summed, weight)
            balanced += gradient * (
                self.weights[name] / total * self.total_norm / max(summed / weight, 1e-12)
            )
        return (audio * balanced.detach()).sum(), norms

    def state_dict(self) -> dict:
        return {"averages": dict(self.averages)}

    def load_state_dict(self, state: dict) -> None:
        self.averages = {name: tuple(pair) for name, pair in state["averages"].items()}


__all__ = [
    "GradientBalancer",
    "adversarial_loss",
    "discriminator_loss",
    "feature_matching_loss",
    "low_loss",
    "mel_loss",
    "partials_loss",
    "pitch_contrast_loss",
    "spectral_loss",
    "structure_loss",
    "waveform_loss",
]
