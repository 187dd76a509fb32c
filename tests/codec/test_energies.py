"""Tests of pooled spectral energies: values of torch.stft, gradients of finite differences and of autograd."""

import pytest
import torch

from rtjazz_hf.codec import pitch_contrast_loss, spectral_loss
from rtjazz_hf.codec.energies import pooled_energies
from rtjazz_hf.codec.transforms import constant

RESOLUTIONS = [
    (4096, 1280, "semitone", (48, 116)),
    (2048, 640, "mel", 128),
    (1024, 400, "band", 64),
    (512, 240, "band", 32),
]


def music(samples: int = 9600, rows: int = 2) -> torch.Tensor:
    """A chord on the left, noise on both sides: (rows, 2, samples)."""
    time = torch.arange(samples) / 48000
    tones = sum(torch.sin(2 * torch.pi * hertz * time) for hertz in (220.0, 277.2, 329.6)) * 0.1
    noise = 0.02 * torch.randn(rows, 2, samples, generator=torch.Generator().manual_seed(3))
    return torch.stack([tones, 0.5 * tones.flip(0)])[None] + noise


def energies_by_stft(audio: torch.Tensor, n_fft: int, hop: int, kind: str, size) -> torch.Tensor:
    """The same, spelled out: every bin of torch.stft, four spectra, autograd."""
    window = constant("hann_window", n_fft).to(audio.dtype)
    arguments = (*size, 48000, 0.4) if kind == "semitone" else (size, 48000)
    pool = constant(f"{kind}_matrix", n_fft, *arguments).to(audio.dtype)
    left, right = audio.unbind(1)
    channels = torch.stack([left, right, (left + right) / 2, (left - right) / 2], 1)
    spectrum = torch.stft(channels.flatten(0, 1), n_fft, hop, window=window, return_complex=True)
    return pool @ spectrum.unflatten(0, (-1, 4)).abs().square()


class TestValues:
    @pytest.mark.parametrize("resolution", RESOLUTIONS)
    def test_are_those_of_stft(self, resolution):
        audio = music()
        torch.testing.assert_close(
            pooled_energies(audio, *resolution), energies_by_stft(audio, *resolution), rtol=1e-4, atol=1e-12
        )

    def test_side_of_a_nearly_mono_recording(self):
        """Side 80 dB below mid is measured, not lost in the rounding of mid."""
        left = music(rows=1)[:, 0]
        audio = torch.stack([left, left * (1 + 2e-4)], 1).double()
        side = pooled_energies(audio.float(), 2048, 640, "mel", 128)[:, 3]
        torch.testing.assert_close(
            side.double(),
            energies_by_stft(audio.float().double(), 2048, 640, "mel", 128)[:, 3],
            rtol=1e-2,
            atol=1e-15,
        )
        assert (pooled_energies(left[:, None].repeat(1, 2, 1), 2048, 640, "mel", 128)[:, 3] == 0).all()


class TestGradients:
    @pytest.mark.parametrize("resolution", RESOLUTIONS)
    def test_are_those_of_autograd(self, resolution):
        gradients = []
        for energies in (pooled_energies, energies_by_stft):
            audio = music().requires_grad_()
            torch.log(energies(audio, *resolution) + 1e-9).sin().sum().backward()
            gradients.append(audio.grad)
        difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
        assert difference < 1e-4

    @pytest.mark.parametrize(("n_fft", "hop", "samples"), [(64, 24, 200), (64, 16, 160), (32, 48, 150)])
    def test_are_those_of_finite_differences(self, n_fft, hop, samples):
        """Hops that divide the window or not, and one that leaves samples out."""
        audio = torch.randn(1, 2, samples, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        assert torch.autograd.gradcheck(
            lambda x: pooled_energies(x, n_fft, hop, "band", 6), audio.requires_grad_(), fast_mode=True
        )

    @pytest.mark.parametrize("loss", [spectral_loss, pitch_contrast_loss])
    def test_nothing_is_asked_of_silence(self, loss):
        estimate = torch.zeros(1, 2, 9600, requires_grad=True)
        loss(estimate, music(rows=1)).backward()
        assert torch.isfinite(estimate.grad).all()
