"""
Cue channels: how loud every pitch is, frame by frame, for a flow to have beside latents that carry signs.

Where a latent is a signed coefficient its mean is zero whatever the chart says, and squared error learns the
chart through second-order effects alone. The mean of a magnitude is moved by the chart, so a flow learns cues at
once, and they tell the signed latents how loud each pitch is. They follow from the audio, cost no bits, and are
dropped before decoding (`BlockStream.without_cues`).
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from ..audio import HOP_LENGTH, SAMPLE_RATE
from ..runtime.files import whole_or_not_at_all
from .transforms import FLOOR, constant

LOWEST_NOTE, NUM_NOTES = 24, 92  # C1 (33 Hz) to G8
# Windows (length, how quickly each falls, the notes that it measures): longer where semitones lie closer.
WINDOWS = ((8192, 1024, 24, 60), (4096, 1024, 60, 84), (2048, 768, 84, LOWEST_NOTE + NUM_NOTES))
LONGEST = WINDOWS[0][0]
CHUNK_FRAMES = 64
# Frames at the start of a clip whose longest window reaches into the silence before it.
START_FRAMES = -(-LONGEST // HOP_LENGTH)


def log_semitones(audio: torch.Tensor) -> torch.Tensor:
    """Log power of 92 semitones of the mid channel: `(batch, 2, samples)` -> `(batch, frames, 92)`.

    Causal: frame i sees samples before `(i + 1) * 640` only, so a clean block of context knows nothing of the
    block that is made next. (The latents themselves see the overlap of the codec's transform, 256 samples more.)
    """
    mid = audio.float().mean(1)  # (batch, samples)
    mid = F.pad(mid, (LONGEST - HOP_LENGTH, -mid.shape[-1] % HOP_LENGTH))
    windows = mid.unfold(-1, LONGEST, HOP_LENGTH)  # (batch, frames, LONGEST)
    pieces = []
    for piece in windows.split(CHUNK_FRAMES, dim=1):  # overlapping windows are 13 times the audio
        parts = []
        for size, fall, first, end in WINDOWS:
            window = constant("asymmetric_window", size, fall, device=audio.device)
            power = torch.fft.rfft(piece[..., -size:] * window).abs().square()
            matrix = constant("semitone_matrix", size, first, end, SAMPLE_RATE, 0.5, device=audio.device)
            parts.append(torch.log(power @ matrix.T + FLOOR))
        pieces.append(torch.cat(parts, dim=-1))
    return torch.cat(pieces, dim=1)


class SemitoneCues(nn.Module):
    """Whitened principal components of the log semitone spectrum of every frame.

    Args:
        num_cues (`int`): components, 1 to 92; a few dozen hold what a chart moves.
    """

    def __init__(self, num_cues: int = 32):
        super().__init__()
        if not 1 <= num_cues <= NUM_NOTES:
            raise ValueError(f"num_cues={num_cues} is not in 1..{NUM_NOTES}, the semitones they are made of.")
        self.register_buffer("mean", torch.zeros(NUM_NOTES))
        self.register_buffer("components", torch.zeros(num_cues, NUM_NOTES))

    @property
    def num_cues(self) -> int:
        return self.components.shape[0]

    @torch.no_grad()
    def fit(self, clips: list[torch.Tensor]) -> float:
        """Fit mean and components to `clips`, each `(batch, 2, samples)` at 48 kHz and longer than 0.2 s.

        Returns the share of the variance that the cues keep.
        """
        spectra = [log_semitones(clip)[:, START_FRAMES:].flatten(0, 1) for clip in clips]
        spectra = torch.cat(spectra) if spectra else torch.zeros(0, NUM_NOTES)
        if len(spectra) < 2:
            raise ValueError(
                f"{len(clips)} clips hold {len(spectra)} whole windows; give more or longer ones."
            )
        self.mean.copy_(spectra.mean(0))
        centred = (spectra - spectra.mean(0)).double()
        values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
        values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)[:, : self.num_cues]  # strongest first
        scale = values[: self.num_cues].clamp_min(1e-6).rsqrt()
        self.components.copy_((vectors * scale).T)
        return (values[: self.num_cues].sum() / values.sum()).item()

    @torch.no_grad()
    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """`(batch, 2, samples)` at 48 kHz -> `(batch, num_cues, frames)`, of about unit variance."""
        return ((log_semitones(audio) - self.mean) @ self.components.T).transpose(1, 2)

    def fingerprint(self) -> str:
        """A short hash: cues with the same one can be mixed."""
        tensors = (self.mean, self.components)
        return hashlib.sha256(b"".join(t.cpu().numpy().tobytes() for t in tensors)).hexdigest()[:16]

    def save(self, path: str | os.PathLike) -> Path:
        """Write a safetensors file, whole or not at all."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_or_not_at_all(path) as partial:
            save_file(
                {name: tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}, partial
            )
        return path

    @classmethod
    def load(cls, path: str | os.PathLike) -> SemitoneCues:
        """Read what `save` wrote."""
        state = load_file(path)
        cues = cls(len(state["components"]))
        cues.load_state_dict(state)
        return cues


__all__ = ["SemitoneCues", "log_semitones"]
