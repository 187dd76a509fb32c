"""Personal takes: a folder of one's own recordings made ready to train on, with a report of what was not used and why.

Beats are librosa's (dynamic programming, Ellis 2007) at a tempo found with swing in mind (`corpus.tempo`); chords are
those that fit beat-synchronous chroma and follow each other as chords of jazz do (`corpus.chord_matching`); the key is
that of the chords (`music.key_finding`). A lead sheet has one tempo, and a player has not: takes are cut at bar lines
into pieces of a few bars, each with the tempo of its own beats.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import SAMPLE_RATE, plot_spectrogram, read_audio, write_audio
from ..band.score import Score
from ..music.chart import ChordSpan, check_beats_per_bar
from ..music.chords import Chord
from ..music.key_finding import estimate_key
from ..music.lead_sheet import LeadSheet, Section
from ..music.vocabulary import (
    MAX_TEMPO,
    MIN_TEMPO,
    canonical_instruments,
    canonical_key,
    check_swing,
    check_tempo,
    choose_lead,
    default_swing,
)
from ..runtime.files import whole_or_not_at_all
from ..runtime.sound_files import RECORDING_SUFFIXES
from .chord_matching import chord_fit, match_chords, unit_columns
from .dataset import TakeRecord, load_takes
from .hearing import heard_score
from .personal_report import PersonalReport, TakeReport
from .retiming import other_tempi, retime
from .tempo import estimate_pulse

MINIMUM_SECONDS = 60.0  # usable sound in all, below which an adapter learns a recording and not a player
LABELS = "labels.json"
LATENTS = "latents"  # folder beside the prepared takes, for a store of them; goes when they are made anew
_RATE = 22_050  # Hz, of the analysis
_HOP = 512
ONSET_RATE = _RATE / _HOP  # frames of onset strength a second
_PIECE_SECONDS = 16.0
_SHORTEST = 6.0  # seconds of a piece or file: longer than a training crop
_SILENCE_DB = -50.0  # mean level
_CLIPPED_SHARE = 0.005  # of samples at full scale
_ONSET_LAG = _HOP / _RATE  # seconds by which librosa's beats are late, of clicks at known times: a frame
_ANALYSIS = 2  # raised when recordings are heard otherwise than before, so that they are prepared anew
_STEADY = 0.25  # of beat intervals' deviation over their median: above it nobody keeps time
# Speech has neither partials that last (`_held_share`: 0.00-0.01 of synthetic voices, 0.18-0.38 of composed takes, but
# 0.06-0.14 of fast staccato) nor pitches on a scale (`_scale_share`: 0.02-0.13; 0.81-0.91; 0.24-0.47).
_HELD, _ON_SCALE = 0.12, 0.18


@dataclass(frozen=True)
class TakeLabel:
    """What a player says of a recording: the rest is heard. `tempo`: beats per minute. `chords`: a chart, repeated.
    `swing`: from 0, straight quavers, to 1, triplets."""

    tempo: float | None = None
    key: str | None = None
    chords: str | None = None
    beats_per_bar: int = 4
    swing: float | None = None

    def __post_init__(self) -> None:
        if self.swing is not None:
            check_swing(self.swing)
        if self.tempo is not None:
            check_tempo(self.tempo)
        if self.key is not None:
            object.__setattr__(self, "key", canonical_key(self.key))
        check_beats_per_bar(self.beats_per_bar)
        if self.chords is not None:
            LeadSheet.from_chart(self.chords, beats_per_bar=self.beats_per_bar)


def read_labels(folder: str | os.PathLike) -> dict[str, TakeLabel]:
    """Labels by file from labels.json in a folder of recordings, if it is there.

    It looks so: `{"blues.wav": {"tempo": 126, "key": "Bb", "chords": "Bb7 | Eb7 | ...", "beats_per_bar": 4}}`; every
    value may be left out.

    Raises:
        ValueError: not such a file, or a file or value in it that is not known, by name.
    """
    path = Path(folder) / LABELS
    if not path.is_file():
        return {}
    try:
        labels = {
            str(Path(file)): TakeLabel(**values) for file, values in json.loads(path.read_text()).items()
        }
    except (AttributeError, TypeError, ValueError) as error:
        known = ", ".join(item.name for item in fields(TakeLabel))
        raise ValueError(
            f"'{path}' cannot be used: {error}. It maps each file to any of {known}, for example "
            '{"blues.wav": {"tempo": 126}}.'
        ) from error
    missing = sorted(file for file in labels if not (Path(folder) / file).is_file())
    if missing:
        raise ValueError(f"'{path}' names files that are not there: {', '.join(missing)}.")
    return labels


def find_recordings(folder: str | os.PathLike) -> list[Path]:
    """The sound files below a folder, by their suffix, sorted.

    Raises:
        FileNotFoundError: no such folder, or no sound file in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder '{folder}'; give one of recordings.")
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix.lower() in RECORDING_SUFFIXES)
    if not files:
        others = [path.name for path in other_files(folder)]
        raise FileNotFoundError(
            f"'{folder}' holds no recording"
            + (f" (there are: {', '.join(others[:5])}{', ...' if len(others) > 5 else ''})" if others else "")
            + f"; put files of {', '.join(s[1:] for s in RECORDING_SUFFIXES)} there, at least {MINIMUM_SECONDS:.0f} s "
            "in all."
        )
    return files


def other_files(folder: str | os.PathLike) -> list[Path]:
    """What lies below a folder of recordings and is none by its suffix, sorted; hidden files are nobody's."""
    return sorted(
        path
        for path in Path(folder).rglob("*")
        if path.is_file()
        and path.suffix.lower() not in RECORDING_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def why_unusable(audio: np.ndarray) -> str | None:
    """What is wrong with a recording `(2, samples)` at 48 kHz before it is analysed; None if nothing."""
    seconds = audio.shape[-1] / SAMPLE_RATE
    if seconds < _SHORTEST:
        return f"too short ({seconds:.1f} s; at least {_SHORTEST:g} s)"
    level = 10 * np.log10(np.mean(np.square(audio, dtype=np.float64)) + 1e-12)
    if level < _SILENCE_DB:
        return f"silent ({level:.0f} dB; at least {_SILENCE_DB:g} dB)"
    peak = np.abs(audio).max()
    clipped = float(np.mean(np.abs(audio) >= 0.999 * peak)) if peak > 0.9 else 0.0
    if clipped > _CLIPPED_SHARE:
        return f"clipped ({clipped:.1%} of its samples are at full scale; record it more quietly)"
    return None


def onset_strength(audio: np.ndarray) -> np.ndarray:
    """How much begins when: `(frames,)` at `ONSET_RATE` of `(2, samples)` at 48 kHz."""
    return _onsets(_for_analysis(audio))


def _for_analysis(audio: np.ndarray) -> np.ndarray:
    import librosa

    return librosa.resample(audio.mean(0), orig_sr=SAMPLE_RATE, target_sr=_RATE, res_type="soxr_hq")


def _onsets(mono: np.ndarray) -> np.ndarray:
    import librosa

    return librosa.onset.onset_strength(y=mono, sr=_RATE, hop_length=_HOP)


@dataclass(frozen=True)
class Analysis:
    """What is heard in a recording.

    Attributes:
        times: of its beats, `(beats,)` seconds. chords: one of each beat. downbeat: which beat is the first bar line.
        straight: whether quavers do not swing.
    """

    times: np.ndarray
    chords: list[Chord]
    downbeat: int
    straight: bool


def analyse(audio: np.ndarray, label: TakeLabel | None = None) -> Analysis:
    """Beats, chords and bar lines of a recording.

    Args:
        audio: `(2, samples)` at 48 kHz. label: what is known of it, and need not be guessed.

    Raises:
        ValueError: it is no music that can be followed: no steady beat, or no sustained pitch, as in speech.
    """
    try:
        import librosa
    except ImportError as error:
        raise ImportError("librosa is not installed; run: pip install 'rtjazz-hf[eval]'") from error
    label = label or TakeLabel()
    mono = _for_analysis(audio)
    onsets = _onsets(mono)
    tempo, straight = estimate_pulse(onsets, ONSET_RATE, label.tempo)
    _, beats = librosa.beat.beat_track(
        onset_envelope=onsets, sr=_RATE, hop_length=_HOP, trim=False, bpm=tempo
    )
    if len(beats) < 8:
        raise ValueError("no steady beat was found")
    spectrum = np.abs(librosa.stft(mono, n_fft=4096, hop_length=_HOP))
    if (held := _held_share(spectrum)) < _HELD and (on_scale := _scale_share(mono)) < _ON_SCALE:
        raise ValueError(
            f"no sustained pitch and no scale, as in speech or noise ({held:.2f}; at least {_HELD:g}; or "
            f"{on_scale:.2f}; at least {_ON_SCALE:g})"
        )
    gaps = np.diff(beats)
    if gaps.std() / np.median(gaps) > _STEADY:
        raise ValueError("no steady beat was found")
    chroma = librosa.feature.chroma_cqt(y=librosa.effects.harmonic(mono), sr=_RATE, hop_length=_HOP)
    heard = librosa.util.sync(chroma, beats, aggregate=np.median)
    heard = heard[
        :, -len(beats) :
    ]  # from the first beat on; what lies before it is a column only if it is not empty
    times = np.maximum(librosa.frames_to_time(beats, sr=_RATE, hop_length=_HOP) - _ONSET_LAG, 0.0)
    if label.chords:
        return Analysis(times, *_place_chart(heard, label), straight)
    chords = match_chords(heard, 1)
    changes = np.array([i for i in range(1, len(chords)) if chords[i] != chords[i - 1]], dtype=int)
    # A bar line is where chords change most often; of all places in the bar the best.
    bar = label.beats_per_bar
    downbeat = int(np.argmax(np.bincount(changes % bar, minlength=bar))) if len(changes) else 0
    if bar % 2 == 0:  # once more, of half bars, within which chords rarely change
        half = (np.arange(len(chords)) - downbeat) // 2
        starts = np.flatnonzero(np.diff(half)) + 1
        wide = match_chords(librosa.util.sync(unit_columns(heard), starts, aggregate=np.mean), 2)
        chords = [wide[one] for one in half - half[0]]
    return Analysis(times, chords, downbeat, straight)


def _place_chart(chroma: np.ndarray, label: TakeLabel) -> tuple[list[Chord], int]:
    """A given chart laid over the beats where it fits best, which may begin anywhere in it; and its first bar line."""
    sheet = LeadSheet.from_chart(label.chords, beats_per_bar=label.beats_per_bar)
    form = [chord for span in sheet.spans for chord in [span.chord] * max(1, round(span.beats))]
    fit, beats = chord_fit(chroma, form), np.arange(chroma.shape[1])
    start = int(np.argmax([fit[(beats + first) % len(form), beats].sum() for first in range(len(form))]))
    return [form[(beat + start) % len(form)] for beat in beats], -start % label.beats_per_bar


def _held_share(spectrum: np.ndarray) -> float:
    """Share of energy in spectral peaks that stay in their bin for 0.2 s: `spectrum` (bins, frames) magnitudes."""
    band = spectrum[10:600]  # 54 Hz to 3.2 kHz
    peaks = (band[1:-1] > band[:-2]) & (band[1:-1] >= band[2:])
    span = 9  # frames
    if peaks.shape[1] <= span:
        return 0.0
    held = np.lib.stride_tricks.sliding_window_view(peaks, span, axis=1).mean(-1) > 0.99
    energy = np.square(band[1:-1, span // 2 : span // 2 + held.shape[1]])
    return float((energy * held).sum() / (energy.sum() + 1e-9))


def _scale_share(mono: np.ndarray) -> float:
    """How much the partials of `(samples,)` at `_RATE` keep to a scale of semitones, however it is tuned: 0 to 1, the
    length of the energy-weighted mean of exp(2 pi i pitch), pitch in semitones."""
    import librosa

    hertz, size = librosa.piptrack(y=mono, sr=_RATE, n_fft=4096, hop_length=_HOP, fmin=100.0, fmax=3_200.0)
    found = size > 0
    if not found.any():
        return 0.0
    energy, pitch = np.square(size[found], dtype=np.float64), librosa.hz_to_midi(hertz[found])
    return float(np.abs((energy * np.exp(2j * np.pi * pitch)).sum()) / energy.sum())


def make_pieces(
    audio: np.ndarray,
    instruments,
    genre: str = "swing",
    mood: str = "relaxed",
    label: TakeLabel | None = None,
) -> list[tuple[np.ndarray, LeadSheet]]:
    """Cut a recording at bar lines: pairs of a piece `(2, samples)` and its lead sheet, silent stretches left out.

    Raises as `analyse` does.
    """
    label = label or TakeLabel()
    heard = analyse(audio, label)
    times, chords = heard.times, heard.chords
    band, bar = canonical_instruments(instruments), label.beats_per_bar
    median = float(np.median(np.diff(times)))
    bars = max(1, round(_PIECE_SECONDS / (bar * median)))
    pieces = []
    for first in range(heard.downbeat, len(times) - 1, bar * bars):
        last = min(first + bar * bars, first + (len(times) - 1 - first) // bar * bar)
        if times[last] - times[first] < _SHORTEST:
            continue
        part = audio[:, round(times[first] * SAMPLE_RATE) : round(times[last] * SAMPLE_RATE)]
        if 10 * np.log10(np.mean(np.square(part, dtype=np.float64)) + 1e-12) < _SILENCE_DB:
            continue
        tempo = 60 * (last - first) / (times[last] - times[first])
        if not MIN_TEMPO <= tempo <= MAX_TEMPO:
            continue
        spans: list[ChordSpan] = []
        for chord in chords[first:last]:
            if spans and spans[-1].chord == chord:
                spans[-1] = ChordSpan(chord, spans[-1].beats + 1)
            else:
                spans.append(ChordSpan(chord, 1.0))
        section = Section("solo", 0.0, float(last - first), band, choose_lead(band))
        swing = label.swing
        if swing is None:
            swing = 0.0 if heard.straight else default_swing(genre, tempo)
        key = label.key or estimate_key(spans)
        sheet = LeadSheet(tuple(spans), tempo, bar, swing, (section,), key, genre, mood, loops=False)
        pieces.append((part, sheet))
    if not pieces:
        raise ValueError("no stretch of it has a steady beat and sound for long enough")
    return pieces


def prepare_takes(
    folder: str | os.PathLike,
    out_dir: str | os.PathLike,
    name: str,
    instruments=("piano",),
    held_out: float = 0.15,
    minimum_seconds: float = MINIMUM_SECONDS,
    pictures: bool = True,
    copies: int = 0,
    transcribe: bool = False,
) -> tuple[list[TakeRecord], PersonalReport]:
    """Make records of a folder of recordings, which `latent_store.fill_takes` encodes, and a report of them.

    Args:
        folder: of recordings; labels.json in it says what need not be guessed (`read_labels`).
        out_dir: gets takes/{piece}/mix.flac and label.json (a corpus, see `corpus.dataset`), pictures, report.txt and
            report.json. What it holds of the same recordings and settings is not done again.
        name: of the style: captions say "in the style of {name}".
        held_out: share of the recordings, whole ones, for the test split; the last pieces of a single one.
        copies: of each piece, at other tempi (`corpus.retiming`), beside it in the same split. They
            do not count as usable sound.
        transcribe: write down the melody and the bass line of each piece as they are heard (`corpus.hearing`).

    Raises:
        ImportError: `transcribe` without basic-pitch; says how to install it.
        FileNotFoundError: no folder, or no recording in it.
        ValueError: less than `minimum_seconds` is usable; says how much is needed, and why takes were skipped.
    """
    out_dir, report, found = Path(out_dir), PersonalReport(), []
    files, labels = find_recordings(folder), read_labels(folder)
    hearing = ["notes"] if transcribe else []
    inputs = _inputs(folder, files, labels, name, instruments, held_out, minimum_seconds, copies, *hearing)
    if (known := _read_prepared(out_dir, inputs)) is not None:
        return known
    for name_of in ("takes", LATENTS):  # of other recordings, or not finished
        shutil.rmtree(out_dir / name_of, ignore_errors=True)
    for path in files:
        take = TakeReport(str(path.relative_to(folder)))
        report.takes.append(take)
        try:
            audio = read_audio(path)
            take.seconds = audio.shape[-1] / SAMPLE_RATE
            take.skipped = why_unusable(audio)
            if take.skipped is None:
                pieces = make_pieces(audio, instruments, label=labels.get(take.file))
                take.pieces = len(pieces)
                take.used_seconds = sum(part.shape[-1] for part, _ in pieces) / SAMPLE_RATE
                take.tempo = float(np.median([sheet.tempo for _, sheet in pieces]))
                take.key = estimate_key([span for _, sheet in pieces for span in sheet.spans])
                found.append((take, pieces))
        except (OSError, ValueError) as error:
            take.skipped = str(error)
    report.takes += [
        TakeReport(
            str(path.relative_to(folder)), skipped=f"no recording, by its name ({path.suffix or 'no suffix'})"
        )
        for path in other_files(folder)
        if path.name != LABELS
    ]
    if (usable := 60 * report.minutes) < minimum_seconds:
        raise ValueError(
            f"'{folder}' holds {usable:.0f} s of usable playing; at least {minimum_seconds:.0f} s are needed, and ten "
            f"minutes are better.\n{report.to_text()}"
        )
    records: list[TakeRecord] = []
    tests = max(1, round(held_out * len(found))) if len(found) > 1 else 0
    for index, (take, pieces) in enumerate(found):
        take.split = "test" if index >= len(found) - tests else "train"
        single = max(1, round(held_out * len(pieces))) if len(found) == 1 and len(pieces) > 1 else 0
        stem = re.sub(r"[^\w-]+", "_", Path(take.file).stem)
        for number, (part, sheet) in enumerate(pieces):
            split = "test" if single and number >= len(pieces) - single else take.split
            piece = f"{index:03d}_{stem}_{number:03d}"
            score = heard_score(part, sheet) if transcribe else None
            take.notes += 0 if score is None else len(score.notes)
            records.append(_write_piece(out_dir, piece, part, sheet, name, split, score))
            if split == "test":
                take.held_out_seconds += records[-1].duration
            for copy, tempo in enumerate(
                other_tempi(sheet.tempo, copies, np.random.default_rng(len(records)))
            ):
                records.append(
                    _write_piece(out_dir, f"{piece}_{copy}", *retime(part, sheet, tempo), name, split, score)
                )
        if pictures:
            (out_dir / "pictures").mkdir(parents=True, exist_ok=True)
            picture = out_dir / "pictures" / f"{index:03d}_{stem}.png"
            plot_spectrogram(pieces[0][0], picture, pieces[0][1], f"{take.file}, first piece")
            take.picture = str(picture.relative_to(out_dir))
    with whole_or_not_at_all(out_dir / "report.txt") as partial:
        partial.write_text(report.to_text() + "\n")
    with whole_or_not_at_all(out_dir / "report.json") as partial:
        partial.write_text(
            json.dumps({"inputs": inputs, "takes": [asdict(take) for take in report.takes]}, indent=2)
        )
    return records, report


def _inputs(folder, files: list[Path], labels: dict[str, TakeLabel], name, instruments, *numbers) -> dict:
    """All that a preparation depends on: where it is the same, the work need not be done again."""
    return {
        "files": [[str(f.relative_to(folder)), f.stat().st_size, f.stat().st_mtime_ns] for f in files],
        "labels": {file: asdict(label) for file, label in sorted(labels.items())},
        "analysis": _ANALYSIS, "name": name, "instruments": list(instruments), "numbers": list(numbers),
    }  # fmt: skip


def _read_prepared(out_dir: Path, inputs: dict) -> tuple[list[TakeRecord], PersonalReport] | None:
    """What an earlier call left for the same inputs; report.json is written last, so it was finished."""
    try:
        before = json.loads((out_dir / "report.json").read_text())
        if before["inputs"] != inputs:
            return None
        return load_takes(out_dir), PersonalReport([TakeReport(**take) for take in before["takes"]])
    except (OSError, TypeError, KeyError, ValueError):
        return None


def _write_piece(
    out_dir: Path, piece: str, audio, sheet: LeadSheet, name: str, split: str, score: Score | None = None
) -> TakeRecord:
    """`score`: in beats, so that it is right of copies at other tempi too."""
    folder = out_dir / "takes" / piece
    folder.mkdir(parents=True, exist_ok=True)
    write_audio(folder / "mix.flac", audio, overwrite=True)
    caption = f"in the style of {name}"
    tags: dict[str, Any] = {"key": sheet.key, "tempo": sheet.tempo, "instruments": list(sheet.instruments)}
    duration = audio.shape[-1] / SAMPLE_RATE
    label = {"lead_sheet": sheet.to_dict(), "caption": caption, "captions": [caption], "tags": tags, "soundfont": "",
             "split": split, "duration": duration}  # fmt: skip
    if score is not None:
        with whole_or_not_at_all(folder / "score.json") as partial:
            partial.write_text(json.dumps(score.to_dict()))
    with whole_or_not_at_all(folder / "label.json") as partial:
        partial.write_text(json.dumps(label, indent=1))
    return TakeRecord(folder / "mix.flac", sheet, caption, (caption,), tags, "", split, duration)


__all__ = [
    "LABELS", "LATENTS", "MINIMUM_SECONDS", "ONSET_RATE", "Analysis", "PersonalReport", "TakeLabel", "TakeReport",
    "analyse", "find_recordings", "make_pieces", "onset_strength", "prepare_takes", "read_labels", "why_unusable",
]  # fmt: skip
