"""Pooled spectral energies of left, right, mid and side: what the codec's losses compare."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .transforms import constant


def pooled_energies(
    audio: torch.Tensor, n_fft: int, hop: int, kind: str, size, sampling_rate: int = 48000
) -> torch.Tensor:
    """Power spectra in Hann windows, pooled over frequency; first derivatives only.

    Args:
        audio (`torch.Tensor` of shape `(batch, 2, samples)`): more than `n_fft // 2` samples.
        n_fft, hop (`int`): window and step in samples.
        kind (`str`): "semitone" or "third" (of a semitone; `size` is the lowest MIDI note and the one above the
            highest), "mel" or "band" (ERB; `size` is how many).

    Returns:
        `torch.Tensor` of shape `(batch, left/right/mid/side, pools, frames)`.
    """
    window, pool = _tables(n_fft, kind, size, sampling_rate, str(audio.device), audio.dtype)
    padded = F.pad(audio, (n_fft // 2, n_fft // 2), mode="reflect")
    with torch.autocast(audio.device.type, enabled=False):
        return _PooledEnergies.apply(padded, window, pool, hop).transpose(2, 3)


@lru_cache(maxsize=64)
def _tables(
    n_fft: int, kind: str, size, sampling_rate: int, device: str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Window, and pools (bins, pools) up to the last bin that counts in any of them."""
    if kind in ("semitone", "third"):
        step, width = (1, 0.4) if kind == "semitone" else (3, 0.15)
        pool = constant("semitone_matrix", n_fft, *size, sampling_rate, width, step, device=device)
    else:
        pool = constant(f"{kind}_matrix", n_fft, size, sampling_rate, device=device)
    bins = int((pool.amax(0) > 1e-8 * pool.amax()).nonzero().max()) + 1
    window = constant("hann_window", n_fft, device=device)
    return window.to(dtype, copy=True), pool[:, :bins].T.to(dtype, copy=True).contiguous()


class _PooledEnergies(torch.autograd.Function):
    """The gradient is written out, because autograd's own costs twice as much: its transform back is a complex one,
    and it keeps four spectra and their squares.

    Mid and side come of the same transforms, as the FFT is linear; their power of their own real and imaginary
    parts, not of the powers of left and right: in a nearly mono recording nothing would be left of side but rounding.
    """

    @staticmethod
    def forward(
        ctx, padded: torch.Tensor, window: torch.Tensor, pool: torch.Tensor, hop: int
    ) -> torch.Tensor:
        frames = padded.unfold(-1, len(window), hop) * window
        spectrum = torch.view_as_real(torch.fft.rfft(frames)[..., : len(pool)])  # (batch, 2, frames, bins, 2)
        left, right = spectrum.unbind(1)
        power = left.new_empty(len(padded), 4, *left.shape[1:3])
        for index, part in enumerate((left, right, (left + right) / 2, (left - right) / 2)):
            torch.square(part[..., 0], out=power[:, index]).addcmul_(part[..., 1], part[..., 1])
        ctx.save_for_backward(spectrum, window, pool)
        ctx.hop, ctx.samples = hop, padded.shape[-1]
        return power @ pool  # (batch, 4, frames, pools)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor) -> tuple:
        spectrum, window, pool = ctx.saved_tensors
        n_fft, hop = len(window), ctx.hop
        weights = (gradient @ pool.T)[..., None]  # (batch, 4, frames, bins, 1)
        left, right = spectrum.unbind(1)
        # Half of d(power)/d(spectrum), which the transform back needs: it counts each bin for its mirror image too.
        mid, side = (left + right).mul_(weights[:, 2] / 4), (left - right).mul_(weights[:, 3] / 4)
        back = torch.empty_like(spectrum)
        torch.mul(left, weights[:, 0], out=back[:, 0]).add_(mid).add_(side)
        torch.mul(right, weights[:, 1], out=back[:, 1]).add_(mid).sub_(side)
        back[..., 0, :] *= 2  # 0 Hz and half the sampling rate have no mirror image
        if back.shape[-2] == n_fft // 2 + 1:
            back[..., -1, :] *= 2
        frames = torch.fft.irfft(torch.view_as_complex(back), n_fft, norm="forward").mul_(window)
        # Overlapping frames are added a hop's width at a time.
        count, parts = frames.shape[2], -(-n_fft // hop)
        added = frames.new_zeros(*frames.shape[:2], count + parts - 1, hop)
        for index in range(parts):
            part = frames[..., index * hop : (index + 1) * hop]
            added[:, :, index : index + count, : part.shape[-1]] += part
        added = added.flatten(2)
        return F.pad(added, (0, ctx.samples - added.shape[-1])), None, None, None


__all__ = ["pooled_energies"]
