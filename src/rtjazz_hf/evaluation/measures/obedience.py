"""Does the music do what the lead sheet asks: chords by chroma, beats by onset strength."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import soxr

from .metrics import SAMPLE_RATE, as_audio

if TYPE_CHECKING:
    from rtjazz_hf.music import Chord, LeadSheet

CHROMA_HOP = 2048
ONSET_HOP = 512
ROTATIONS = tuple(range(1, 12))
MIN_SEGMENT = 0.4  # s; a shorter chord is mostly the ringing of the one before


class Heard:
    """A clip, and what the measures hear in it, each worked out once and only if asked for.

    All measures here take one in the place of the audio, so that a clip that is held against several charts is
    analysed once.
    """

    def __init__(self, audio: np.ndarray):
        self.audio = as_audio(audio)

    @classmethod
    def of(cls, audio: np.ndarray | Heard) -> Heard:
        return audio if isinstance(audio, Heard) else cls(audio)

    @property
    def seconds(self) -> float:
        return self.audio.shape[1] / SAMPLE_RATE

    @cached_property
    def chroma(self) -> np.ndarray:
        return chroma(self.audio)

    @cached_property
    def onsets(self) -> np.ndarray:
        return onset_strength(self.audio)


# --- chords ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ChordHit:
    """A chord of the chart as it was played: from `start` to `end` in seconds of the lead sheet.

    `hit` is whether the chroma fits the chord better than its 11 transpositions.
    """

    start: float
    end: float
    chord: Chord
    hit: bool


def chroma(audio: np.ndarray) -> np.ndarray:
    """Chroma of the mid channel, `(frames, 12)`, a frame every 2,048 samples, C first.

    A constant-Q transform of six octaves from C1 (32.7 Hz), three bins a semitone, at 12 kHz: on band takes
    with drums it puts the asked chord first in 0.97 of the segments, where an STFT chroma manages 0.7.
    """
    try:
        import librosa
    except ImportError as error:
        raise ImportError("chord obedience needs librosa: pip install 'rtjazz-hf[eval]'") from error
    mono = soxr.resample(as_audio(audio).mean(0), SAMPLE_RATE, 12_000)
    if mono.size < 36_000:  # the lowest filters are long
        mono = np.pad(mono, (0, 36_000 - mono.size))
    folded = librosa.feature.chroma_cqt(
        y=mono, sr=12_000, hop_length=CHROMA_HOP // 4, norm=None, n_octaves=6, bins_per_octave=36, tuning=0.0
    )
    return np.ascontiguousarray(folded.T, dtype=np.float64)


def _rank_is_first(mean_chroma: np.ndarray, chord: Chord) -> bool:
    """Whether no transposition of `chord` fits the chroma better than `chord` itself."""
    template = np.zeros(12)
    template[list(chord.pitch_classes)] = 1.0
    fits = [float(mean_chroma @ np.roll(template, shift)) for shift in range(12)]
    # Symmetric chords (diminished, augmented) equal some of their transpositions: a tie counts as first.
    return fits[0] >= max(fits) - 1e-9


def _segment_chromas(
    audio: np.ndarray | Heard, lead_sheet: LeadSheet, start_s: float
) -> list[tuple[float, float, np.ndarray, Chord]]:
    heard = Heard.of(audio)
    frames = heard.chroma
    times = np.arange(len(frames)) * CHROMA_HOP / SAMPLE_RATE
    found = []
    for begin, end, chord in lead_sheet.chord_segments(start_s, heard.seconds):
        t0, t1 = begin - start_s, end - start_s
        if chord.root is None or t1 - t0 < MIN_SEGMENT:
            continue
        # Keep away from the edges, where the window sees the neighbours and the last chord still rings.
        inner = (times >= t0 + 0.08) & (times <= t1 - 0.04)
        if inner.sum() < 3:
            continue
        total = frames[inner].mean(0)
        found.append((begin, end, total / max(float(total.sum()), 1e-9), chord))
    return found


def chord_hits(audio: np.ndarray | Heard, lead_sheet: LeadSheet, start_s: float = 0.0) -> list[ChordHit]:
    """What became of every chord of at least 0.4 s; `chord_rank_rate` is the share of hits among them.

    Args:
        audio: `(channels, samples)` at 48 kHz, beginning `start_s` seconds into `lead_sheet`.
    """
    return [
        ChordHit(begin, end, chord, _rank_is_first(c, chord))
        for begin, end, c, chord in _segment_chromas(audio, lead_sheet, start_s)
    ]


def chord_rank_rate(
    audio: np.ndarray | Heard, lead_sheet: LeadSheet, start_s: float = 0.0, rotation: int | Iterable[int] = 0
) -> float:
    """Share of chord segments whose mean chroma fits the asked chord better than its 11 transpositions.

    Args:
        audio: `(channels, samples)` at 48 kHz, beginning `start_s` seconds into `lead_sheet`.
        rotation: ask for the chart transposed by so many semitones instead; several give the mean of their
        rates.

    Returns:
        r from 0 to 1 over the segments of at least 0.4 s that have a chord; NaN where there is none.
    """
    rotations = [rotation] if isinstance(rotation, int) else list(rotation)
    segments = _segment_chromas(audio, lead_sheet, start_s)
    if not segments:
        return float("nan")
    return float(
        np.mean([_rank_is_first(np.roll(c, -turn), chord) for turn in rotations for *_, c, chord in segments])
    )


def chord_rates(
    audio: np.ndarray | Heard, lead_sheet: LeadSheet, start_s: float = 0.0
) -> tuple[float, float, int]:
    """`chord_rank_rate` for the chart, and for its 11 rotations on average, from one analysis; and the
    number of
    segments judged."""
    segments = _segment_chromas(audio, lead_sheet, start_s)
    if not segments:
        return float("nan"), float("nan"), 0
    true = float(np.mean([_rank_is_first(c, chord) for *_, c, chord in segments]))
    rotated = float(
        np.mean([_rank_is_first(np.roll(c, -k), chord) for k in ROTATIONS for *_, c, chord in segments])
    )
    return true, rotated, len(segments)


def changes_chord(lead_sheet: LeadSheet, start_s: float = 0.0, duration_s: float = 30.0) -> bool:
    """Whether at least two different chords are long enough to be judged in this stretch."""
    segments = lead_sheet.chord_segments(start_s, duration_s)
    return (
        len({c.pitch_classes for t0, t1, c in segments if c.root is not None and t1 - t0 >= MIN_SEGMENT}) > 1
    )


def chord_score(generated: float, rotated: float, render: float) -> float:
    """(r_generated - r_rotated) / (r_render - r_rotated): 1 is as obedient as the composed render, 0 is
    deaf."""
    return (generated - rotated) / (render - rotated) if render - rotated > 1e-6 else float("nan")


# --- beats ----------------------------------------------------------------------------------------


def onset_strength(audio: np.ndarray) -> np.ndarray:
    """Onset strength of the mid channel, `(frames,)`, a frame every 512 samples: log-mel flux up to 16 kHz."""
    try:
        import librosa
    except ImportError as error:
        raise ImportError("beat detection needs librosa: pip install 'rtjazz-hf[eval]'") from error
    mono = np.ascontiguousarray(as_audio(audio).mean(0))
    return librosa.onset.onset_strength(y=mono, sr=SAMPLE_RATE, hop_length=ONSET_HOP, n_fft=2048, fmax=16000)


def detect_beats(audio: np.ndarray | Heard, tempo: float | None = None) -> np.ndarray:
    """Beat times in seconds found in the audio by onset strength and dynamic programming (Ellis, 2007;
    librosa).

    `tempo` is a starting point only, to settle whether half or double time is counted: the tempo that is
    tracked is the strongest period of the onsets near it, and the phase comes from the audio alone.
    """
    onsets = Heard.of(audio).onsets
    if not np.any(onsets > 1e-6):
        return np.zeros(0)
    import librosa

    tempo_found = librosa.feature.tempo(
        onset_envelope=onsets,
        sr=SAMPLE_RATE,
        hop_length=ONSET_HOP,
        start_bpm=120.0 if tempo is None else tempo,
        std_bpm=1.0 if tempo is None else 0.2,
    )[0]
    _, beats = librosa.beat.beat_track(
        onset_envelope=onsets,
        sr=SAMPLE_RATE,
        hop_length=ONSET_HOP,
        bpm=float(tempo_found),
        tightness=200,
        trim=False,
        units="time",
    )
    return np.asarray(beats, dtype=np.float64)


def beat_scores(
    audio: np.ndarray | Heard, lead_sheet: LeadSheet, start_s: float = 0.0, window: float = 0.07
) -> dict[str, float]:
    """Detected beats against the grid the lead sheet asks for.

    Returns:
        f: F-measure with a tolerance of `window` seconds (Dixon, 2001; as in mir_eval).
        f_offset: the same against the grid moved by half a beat: what a tracker with the wrong phase would
        get.
        tempo: beats a minute, from the first detected beat to the last. tempo_error: its relative error.
    """
    try:
        import mir_eval
    except ImportError as error:
        raise ImportError("beat obedience needs mir_eval: pip install 'rtjazz-hf[eval]'") from error
    heard = Heard.of(audio)
    asked = lead_sheet.beat_times(start_s, heard.seconds) - start_s
    found = detect_beats(heard, lead_sheet.tempo)
    # A tracker has no opinion before the first note: judge from the first asked beat to the last.
    if asked.size:
        found = found[(found >= asked[0] - window) & (found <= asked[-1] + window)]
    if found.size < 2 or asked.size < 2:
        return {"f": 0.0, "f_offset": 0.0, "tempo": float("nan"), "tempo_error": float("nan")}
    tempo = 60.0 * (found.size - 1) / float(found[-1] - found[0])
    half = 30.0 / lead_sheet.tempo
    return {
        "f": float(mir_eval.beat.f_measure(asked, found, f_measure_threshold=window)),
        "f_offset": float(mir_eval.beat.f_measure(asked[:-1] + half, found, f_measure_threshold=window)),
        "tempo": tempo,
        "tempo_error": abs(tempo - lead_sheet.tempo) / lead_sheet.tempo,
    }


def beat_f_measure(
    audio: np.ndarray | Heard, lead_sheet: LeadSheet, start_s: float = 0.0, window: float = 0.07
) -> float:
    """The F-measure of `beat_scores` alone."""
    return beat_scores(audio, lead_sheet, start_s, window)["f"]


# --- charts ---------------------------------------------------------------------------------------


def chart_scores(
    generated: np.ndarray | Heard,
    render: np.ndarray | Heard,
    lead_sheet: LeadSheet,
    render_sheet: LeadSheet | None = None,
) -> dict[str, object]:
    """One clip beside the composed render of its chart: chords and beats of both.

    Args:
        generated, render: `(2, samples)` at 48 kHz, from t = 0 of the sheet.
        lead_sheet: that was asked of `generated`. render_sheet: of the render, where it is another (one that ends).

    Returns:
        chord_generated, chord_rotated, chord_render, chord_render_rotated, chord_segments: `chord_rates` of both.
        changes_chord: whether the chart can be judged. beat_f, beat_f_offset, tempo_error, beat_f_render,
        tempo_error_render: `beat_scores` of both.
    """
    render_sheet = lead_sheet if render_sheet is None else render_sheet
    generated, render = Heard.of(generated), Heard.of(render)
    chord, chord_rotated, segments = chord_rates(generated, lead_sheet)
    chord_render, render_rotated, _ = chord_rates(render, render_sheet)
    beats, render_beats = beat_scores(generated, lead_sheet), beat_scores(render, render_sheet)
    return {
        "changes_chord": changes_chord(lead_sheet, 0.0, render.seconds),
        "chord_segments": segments, "chord_generated": chord, "chord_rotated": chord_rotated,
        "chord_render": chord_render, "chord_render_rotated": render_rotated,
        "beat_f": beats["f"], "beat_f_offset": beats["f_offset"], "beat_f_render": render_beats["f"],
        "tempo_error": beats["tempo_error"], "tempo_error_render": render_beats["tempo_error"],
    }  # fmt: skip


def mean_chart_scores(charts: Sequence[dict[str, object]]) -> dict[str, float]:
    """Means of `chart_scores` over charts, NaN where there is nothing to judge.

    Chords are judged on the `chord_charts` charts that change chord; chord_score is of the mean rates.
    """
    changing = [c for c in charts if c["changes_chord"] and not np.isnan(c["chord_generated"])]

    def mean(key: str, of: Sequence[dict[str, object]], average=np.mean) -> float:
        values = np.array([c[key] for c in of], dtype=np.float64)
        values = values[~np.isnan(values)]
        return float(average(values)) if values.size else float("nan")

    keys = ("chord_generated", "chord_rotated", "chord_render")
    rates = {key: mean(key, changing) for key in keys}
    beats = ("beat_f", "beat_f_offset", "beat_f_render", "tempo_error")
    return {
        "chord_charts": len(changing),
        **rates,
        "chord_score": chord_score(*rates.values()),
        **{key: mean(key, charts) for key in beats},
        "tempo_error_median": mean("tempo_error", charts, np.median),
    }
