"""How clearly asked notes are played: F1 by an outside transcriber, level over their neighbours, gaps between
partials."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...audio import SAMPLE_RATE
from ...corpus.transcription import transcribe
from ...music.score_features import NOTE_ROLES

ONSET_TOLERANCE_S = 0.07
SCORED_ROLES = ("lead", "bass", "comp")
_CQT_RATE, _CQT_HOP, _LOWEST = 24_000, 256, 24  # C1
_BINS = 3  # a semitone


def note_scores(audio: np.ndarray, notes: np.ndarray, heard: np.ndarray | None = None) -> dict[str, float]:
    """Recall, precision and F1 of the notes of each role in `audio` `(2, samples)`.

    A note is heard where the transcriber reports its key within 70 ms of its onset (`mir_eval`'s matching). Notes heard
    that another role explains count for neither; precision is over the range of the role.

    Args:
        notes: asked, `(notes, 6)` in seconds, of `score_features.NOTE_COLUMNS`; those that begin in the clip's last
            0.15 s are not asked for.
        heard: what `transcribe` gave, if it is known already.

    Returns:
        `lead_recall`, `lead_precision`, `lead_f1` and so on; a role without notes has none.
    """
    seconds = audio.shape[-1] / SAMPLE_RATE
    heard = transcribe(audio) if heard is None else heard
    notes = notes[(notes[:, 0] >= 0) & (notes[:, 0] < seconds - 0.15)]
    notes = notes[notes[:, 4] != NOTE_ROLES.index("drums")]
    scores: dict[str, float] = {}
    for role in SCORED_ROLES:
        mine = notes[:, 4] == NOTE_ROLES.index(role)
        if mine.any():
            scores |= {f"{role}_{name}": value for name, value in _part(notes[mine], notes[~mine], heard).items()}
    return scores


def _part(asked: np.ndarray, others: np.ndarray, heard: np.ndarray) -> dict[str, float]:
    hits = _matches(asked, heard)
    left = np.delete(heard, hits, axis=0)
    left = np.delete(left, _matches(others, left), axis=0)
    low, high = asked[:, 2].min() - 1, asked[:, 2].max() + 1
    extra = int(((left[:, 2] >= low) & (left[:, 2] <= high)).sum())
    recall, precision = len(hits) / len(asked), len(hits) / max(1, len(hits) + extra)
    return {
        "recall": recall,
        "precision": precision,
        "f1": 2 * recall * precision / max(1e-9, recall + precision),
    }


def _matches(asked: np.ndarray, heard: np.ndarray) -> list[int]:
    """Indices of heard notes that are asked ones."""
    import librosa
    from mir_eval.transcription import match_notes

    if not len(asked) or not len(heard):
        return []
    pairs = match_notes(
        np.stack([asked[:, 0], asked[:, 0] + asked[:, 1].clip(0.01)], 1), librosa.midi_to_hz(asked[:, 2]),
        heard[:, :2], librosa.midi_to_hz(heard[:, 2]), onset_tolerance=ONSET_TOLERANCE_S, pitch_tolerance=50.0,
        offset_ratio=None,
    )  # fmt: skip
    return [theirs for _, theirs in pairs]


def semitone_levels(audio: np.ndarray) -> np.ndarray:
    """Magnitudes `(84, frames)` of the semitones C1 to B7, a frame every 10.7 ms, of `audio` `(2, samples)`."""
    import librosa

    mono = librosa.resample(np.asarray(audio, dtype=np.float32).mean(0), orig_sr=SAMPLE_RATE, target_sr=_CQT_RATE)
    lowest = librosa.midi_to_hz(_LOWEST) * 2 ** (-1 / (12 * _BINS))
    bins = np.abs(librosa.cqt(mono, sr=_CQT_RATE, hop_length=_CQT_HOP, fmin=lowest, n_bins=84 * _BINS,
                              bins_per_octave=12 * _BINS, tuning=0.0))  # fmt: skip
    return bins.reshape(84, _BINS, -1).max(1)


def clarity(levels: np.ndarray, notes: np.ndarray) -> Mapping[str, float]:
    """By how many dB asked notes stand over the loudest of the four semitones beside them: `lead_db`, the median, and
    `lead_clear`, the share above 3 dB; of every role that has notes.

    Args:
        levels: what `semitone_levels` gives. notes: as in `note_scores`.
    """
    times = np.arange(levels.shape[1]) * _CQT_HOP / _CQT_RATE
    found: dict[str, float] = {}
    for role in SCORED_ROLES:
        over = []
        for start, length, midi, *_ in notes[notes[:, 4] == NOTE_ROLES.index(role)]:
            frames = (times >= start + 0.01) & (times <= start + max(0.09, min(length, 0.5)))
            key = int(midi) - _LOWEST
            if 2 <= key < 82 and frames.sum() >= 2:
                level = levels[key - 2 : key + 3, frames].mean(1)
                over.append(20 * np.log10((level[2] + 1e-6) / (level[[0, 1, 3, 4]].max() + 1e-6)))
        if over:
            found |= {f"{role}_db": float(np.median(over)), f"{role}_clear": float(np.mean(np.array(over) > 3))}
    return found


def peaks_over_valleys(levels: np.ndarray, floor_db: float = -50.0) -> float:
    """How far partials stand over the gaps between them: the 90th over the 20th percentile of the semitones C3 to C7 of
    a frame in dB, median over the frames that are not silent."""
    frames = 20 * np.log10(levels[24:73] + 1e-7)
    loud = frames.max(0)
    frames = frames[:, loud > loud.max() + floor_db]
    return float(np.median(np.percentile(frames, 90, axis=0) - np.percentile(frames, 20, axis=0)))


__all__ = ["SCORED_ROLES", "clarity", "note_scores", "peaks_over_valleys", "semitone_levels"]
