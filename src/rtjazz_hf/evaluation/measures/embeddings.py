"""Clips as embeddings, by which sets of clips are compared: of the style encoder's audio tower, or of CLAP.

There is no VGGish here: its ports want torchaudio or weights from a place of their own, and CLAP's embeddings follow
listeners better (Gui et al., 2024).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from rtjazz_hf.audio import SAMPLE_RATE, resample

from .metrics import as_audio

if TYPE_CHECKING:
    from rtjazz_hf.music import LeadSheet
    from rtjazz_hf.style import RealTimeJazzStyleEncoder, RealTimeJazzTokenizer

WINDOW_SECONDS = 5.0  # what the audio tower is trained on
CLAP_SECONDS = 10.0
_BATCH = 16  # windows at once
_LEAST_SAMPLES = SAMPLE_RATE // 10


@dataclass(frozen=True)
class ClipEmbedding:
    """One clip, window by window.

    Attributes:
        starts: where its windows begin, `(windows,)` seconds. seconds: length of each.
        features: `(windows, width)` float32, what distributions and probes look at.
        unit: `(windows, dim)` float32 unit vectors in the space that clips share with words.
    """

    starts: np.ndarray
    seconds: float
    features: np.ndarray
    unit: np.ndarray

    @property
    def whole(self) -> np.ndarray:
        """The unit vector of the whole clip, `(dim,)`: the mean of its windows'."""
        mean = self.unit.mean(0)
        return mean / max(float(np.linalg.norm(mean)), 1e-9)


class Embedder(Protocol):
    """What makes embeddings: `TowerEmbedder` or `ClapEmbedder`."""

    name: str
    temperature: float

    def __call__(self, audio: np.ndarray) -> ClipEmbedding: ...
    def text(self, texts: Sequence[str]) -> np.ndarray: ...


class TowerEmbedder:
    """Embeddings of the package's own style encoder.

    `features` are the audio tower's output before projection and normalisation: the projection is linear, so it
    adds nothing to them, and they have 192 dimensions (mini) where the unit vectors have 512.

    Args:
        style_encoder, tokenizer: of a pipeline; the tokenizer is needed for words only.
        seconds: length of a window; what is left after the last whole one is not heard, and a clip that is
            shorter is one window.
    """

    name = "our tower"

    def __init__(
        self,
        style_encoder: RealTimeJazzStyleEncoder,
        tokenizer: RealTimeJazzTokenizer | None = None,
        seconds: float = WINDOW_SECONDS,
    ):
        self.style_encoder, self.tokenizer, self.seconds = style_encoder, tokenizer, seconds
        scale = style_encoder.logit_scale.detach().float().exp()
        self.temperature = 1.0 / float(scale.clamp(max=style_encoder.config.max_logit_scale))

    @torch.no_grad()
    def __call__(self, audio: np.ndarray) -> ClipEmbedding:
        """`(2, samples)` at 48 kHz to its embedding. Raises ValueError for less than 0.1 s."""
        encoder = self.style_encoder
        starts, pieces = cut_windows(audio, self.seconds)
        features, unit = [], []
        with _evaluating(encoder):
            for part in torch.from_numpy(pieces).split(_BATCH):
                log_mel = encoder.audio_front_end(part.to(encoder.device))
                mask = torch.ones(log_mel.shape[:2], dtype=torch.bool, device=log_mel.device)
                pooled = encoder.audio_tower(log_mel, mask)  # (windows, width)
                features.append(pooled.float().cpu())
                projected = encoder.audio_projection(pooled).float()
                unit.append(torch.nn.functional.normalize(projected, dim=-1).cpu())
        return ClipEmbedding(starts, self.seconds, torch.cat(features).numpy(), torch.cat(unit).numpy())

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of words, `(texts, dim)`, each alone, so that none depends on its neighbours' length."""
        if self.tokenizer is None:
            raise ValueError("words need a tokenizer: give the pipeline's own to TowerEmbedder.")
        rows = []
        limit = self.style_encoder.config.max_position_embeddings
        with _evaluating(self.style_encoder):
            for text in texts:
                tokens = self.tokenizer(text, truncation=True, max_length=limit, return_tensors="pt")
                tokens = tokens.to(self.style_encoder.device)
                rows.append(
                    self.style_encoder.encode_text(tokens["input_ids"], tokens["attention_mask"]).cpu()
                )
        return torch.cat(rows).float().numpy()


class ClapEmbedder:
    """Embeddings of a CLAP model (Wu et al., 2023) that the user has: a folder, or an id on the Hub.

    Args:
        model: what `transformers.ClapModel.from_pretrained` reads, e.g. "laion/clap-htsat-unfused".

    Raises:
        OSError: not found, or not reachable. ValueError: another kind of model.
    """

    def __init__(self, model: str | os.PathLike, device: str | torch.device = "cpu"):
        from transformers import AutoConfig, AutoTokenizer, ClapFeatureExtractor, ClapModel

        model = os.fspath(model)
        kind = AutoConfig.from_pretrained(model).model_type
        if kind != "clap":
            raise ValueError(f"'{model}' is a model of type {kind!r}; give a CLAP model.")
        self.name = f"CLAP {os.path.basename(os.path.normpath(model))}"
        self.model = ClapModel.from_pretrained(model).to(device).eval()
        self.extractor = ClapFeatureExtractor.from_pretrained(model)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.temperature = 1.0 / float(self.model.logit_scale_a.detach().exp())

    @torch.no_grad()
    def __call__(self, audio: np.ndarray) -> ClipEmbedding:
        """`(2, samples)` at 48 kHz, heard as mono in windows of 10 s; features and unit vectors are the same."""
        starts, pieces = cut_windows(audio, CLAP_SECONDS)
        rate = self.extractor.sampling_rate
        rows = []
        for piece in pieces.mean(1):
            piece = resample(piece[None], SAMPLE_RATE, rate)[0]
            inputs = self.extractor(piece, sampling_rate=rate, return_tensors="pt").to(self.model.device)
            rows.append(self.model.get_audio_features(**inputs).pooler_output.float().cpu())
        unit = torch.cat(rows).numpy()
        return ClipEmbedding(starts, CLAP_SECONDS, unit, unit)

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of words, `(texts, dim)`."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        tokens = {name: tokens[name].to(self.model.device) for name in ("input_ids", "attention_mask")}
        return self.model.get_text_features(**tokens).pooler_output.float().cpu().numpy()


@contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode inside, and the mode it was in afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def cut_windows(audio: np.ndarray, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """`(channels, samples)` to the starts of its whole windows, in seconds, and the windows `(windows, channels,
    samples)`; a shorter clip is one window of its own length."""
    audio = np.nan_to_num(as_audio(audio))
    if audio.shape[1] < _LEAST_SAMPLES:
        raise ValueError(f"a clip of {audio.shape[1]} samples is too short to embed: give 0.1 s or more.")
    size = min(round(seconds * SAMPLE_RATE), audio.shape[1])
    count = audio.shape[1] // size
    pieces = audio[:, : count * size].reshape(len(audio), count, size).transpose(1, 0, 2)
    return np.arange(count) * size / SAMPLE_RATE, np.ascontiguousarray(pieces)


def embed_sets(
    embedder: Embedder, sets: Mapping[str, Sequence[np.ndarray]]
) -> dict[str, list[ClipEmbedding]]:
    """Embed named sets of clips once, for every measure that follows."""
    return {name: [embedder(clip) for clip in clips] for name, clips in sets.items()}


def noise_like(clip: np.ndarray, seed: int = 0) -> np.ndarray:
    """White noise of the clip's shape and root mean square: what no measure should take for music."""
    clip = as_audio(clip)
    level = float(np.sqrt(np.mean(np.nan_to_num(clip).astype(np.float64) ** 2)))
    return (level * np.random.default_rng(seed).standard_normal(clip.shape)).astype(np.float32)


def derangement(count: int, seed: int = 0) -> np.ndarray:
    """A random order of `count` things in which none keeps its place (one thing alone keeps it)."""
    order = np.random.default_rng(seed).permutation(count)
    shifted = np.empty(count, dtype=int)
    shifted[order] = np.roll(order, 1)
    return shifted


def caption_class(lead_sheet: LeadSheet) -> tuple[str, tuple[str, ...]]:
    """What two captions must differ in to be told apart: genre and band."""
    return lead_sheet.genre, lead_sheet.instruments


__all__ = [
    "ClapEmbedder",
    "ClipEmbedding",
    "Embedder",
    "TowerEmbedder",
    "caption_class",
    "cut_windows",
    "derangement",
    "embed_sets",
    "noise_like",
]
