"""Takes in the layout of `training/prepare_corpus.py`, of plain tones instead of rendered instruments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rtjazz_hf.audio import write_audio
from rtjazz_hf.band import random_lead_sheet
from rtjazz_hf.music import LeadSheet

SAMPLE_RATE = 48_000


def chord_tones(lead_sheet: LeadSheet, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Every chord of the sheet as decaying tones, left and right a little apart, over noise: `(2, samples)`."""
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    audio = 0.005 * rng.standard_normal((2, len(time)))
    for start, end, chord in lead_sheet.chord_segments(0.0, seconds):
        inside = (time >= start) & (time < end)
        decay = np.exp(-3 * (time[inside] - start))
        for pitch in chord.pitch_classes:
            for side, note in enumerate((48 + pitch, 48 + pitch + 0.02)):
                hertz = 440 * 2 ** ((note - 69) / 12)
                audio[side, inside] += 0.1 * decay * np.sin(2 * np.pi * hertz * time[inside])
    return audio.astype(np.float32)


def played(tempo=120, seconds=40.0, chart="Dm7 | G7 | Cmaj7 | A7", seed=0):
    """A take with a click on every beat: `(2, samples)`."""
    rng = np.random.default_rng(seed)
    audio = chord_tones(LeadSheet.from_chart(chart, tempo), seconds, rng)
    for beat in np.arange(0, seconds - 0.1, 60 / tempo):
        start = round(beat * SAMPLE_RATE)
        audio[:, start : start + 1000] += 0.3 * rng.standard_normal(1000) * np.exp(-np.arange(1000) / 150)
    return audio.astype(np.float32)


def write_takes(root: Path, count: int = 3, seconds: float = 3.0, held_out: int = 1, seed: int = 0) -> Path:
    """`count` takes in `root`, the last `held_out` of which are the test part."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        lead_sheet = random_lead_sheet(rng)
        folder = root / "takes" / f"{index:06d}"
        folder.mkdir(parents=True)
        # lengths differ, and are no whole number of frames
        audio = chord_tones(lead_sheet, seconds + 0.101 * index, rng)
        write_audio(folder / "mix.flac", audio)
        label = {
            "lead_sheet": lead_sheet.to_dict(),
            "caption": f"some {lead_sheet.genre}",
            "captions": [f"some {lead_sheet.genre}", f"{lead_sheet.mood} {lead_sheet.genre}"],
            "tags": {"genre": lead_sheet.genre},
            "seed": index,
            "soundfont": "none",
            "split": "test" if index >= count - held_out else "train",
            "loudness": -20.0,
            "duration": audio.shape[1] / SAMPLE_RATE,
        }
        (folder / "label.json").write_text(json.dumps(label))
    return root
