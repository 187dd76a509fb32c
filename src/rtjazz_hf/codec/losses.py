"""Spectral losses of the codec, on left, right, mid and side."""

from __future__ import annotations

import torch

from .transforms import FLOOR, constant

# FFT size, hop, and how its bins are pooled: semitones where pitch is heard, ERB bands where attacks are.
RESOLUTIONS = (
    (8192, 1920, "semitone", (28, 100)),
    (4096, 960, "semitone", (48, 116)),
    (2048, 480, "band", 100),
    (1024, 240, "band", 64),
    (512, 120, "band", 32),
)


def _left_right_mid_side(audio: torch.Tensor) -> torch.Tensor:
    left, right = audio[:, 0], audio[:, 1]
    return torch.cat([left, right, (left + right) / 2, (left - right) / 2])


def spectral_loss(estimate: torch.Tensor, target: torch.Tensor, sampling_rate: int = 48000) -> torch.Tensor:
    """Difference of pooled energies at five resolutions, blind to phase.

    Absolute differences of log energy, and of amplitude relative to the mean amplitude (so that what is loud
    counts more), averaged over resolutions. Pooling makes it fair to noise: two takes of the same cymbal differ
    in every bin and agree in every band.

    Args:
        estimate, target (`torch.Tensor` of shape `(batch, 2, samples)`): at least 8,192 samples.
    """
    estimate, target = _left_right_mid_side(estimate.float()), _left_right_mid_side(target.float())
    device, total = target.device, 0.0
    for n_fft, hop, kind, size in RESOLUTIONS:
        window = constant("hann_window", n_fft, device=device)
        if kind == "semitone":
            pool = constant("semitone_matrix", n_fft, *size, sampling_rate, 0.4, device=device)
        else:
            pool = constant("band_matrix", n_fft, size, sampling_rate, device=device)

        def energies(audio: torch.Tensor, n_fft=n_fft, hop=hop, window=window, pool=pool) -> torch.Tensor:
            return pool @ torch.stft(audio, n_fft, hop, window=window, return_complex=True).abs().square()

        a, b = energies(estimate), energies(target)
        a_root, b_root = (a + 1e-9).sqrt(), (b + 1e-9).sqrt()
        log_difference = (torch.log(a + FLOOR) - torch.log(b + FLOOR)).abs().mean()
        total = total + log_difference + 2 * (a_root - b_root).abs().mean() / (b_root.mean() + 0.003)
    return total / len(RESOLUTIONS)


def waveform_loss(estimate: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Absolute difference of pre-emphasised samples, relative to the target's: for `phase="kept"` and SEANet.

    A first difference tilts by 6 dB an octave, or bass would be all that this loss sees.
    """
    emphasised = [audio[..., 1:] - 0.95 * audio[..., :-1] for audio in (estimate.float(), target.float())]
    return (emphasised[0] - emphasised[1]).abs().mean() / (emphasised[1].abs().mean() + 1e-3)


__all__ = ["spectral_loss", "waveform_loss"]
