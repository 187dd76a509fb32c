"""What was played in a recording, as a score: its melody and its bass line, as far as a transcriber hears them.

A part of which little is heard is not told at all: a flow that learns from it is then free, and not misled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from ..audio import SAMPLE_RATE
from ..band import PhraseMemory
from ..band.parts import REACH, Tone, skyline
from ..band.score import Score, ScoreNote
from ..music.lead_sheet import LeadSheet
from ..music.vocabulary import CHORD_INSTRUMENTS, choose_lead
from .dataset import TakeRecord
from .transcription import transcribe

_BASS = (28, 55)  # E1 to G3
_LOWEST_LINE = 52  # E3: what is heard below it is mostly the bass's
_SHORTEST_S = 0.06
_SURE = 0.45  # least certainty
_TOGETHER_S = 0.06  # notes that begin so near are struck together
_AGAIN_S = 0.2  # a bass note that is heard again so soon is still the same: its attack was heard first
_LEAST_NOTES = 4  # of a part, in as many seconds and more
_VELOCITY = 80  # nobody measured it


def heard_score(audio: np.ndarray, sheet: LeadSheet) -> Score:
    """The lines of a piece, by the players of its lead sheet, as basic-pitch hears them: the highest is the lead's, the
    lowest the bass's.

    Chords and drums are not told: of chords a transcriber hears a fifth (and the notes of a part that is told are all
    that it plays).

    Args:
        audio: `(2, samples)` at 48 kHz, from the sheet's beat 0 on. sheet: tempo and band.

    Raises:
        ImportError: basic-pitch is not installed; says how to.
    """
    band, beat = sheet.instruments, sheet.tempo / 60.0
    heard = transcribe(audio, _SURE)
    heard = heard[heard[:, 1] - heard[:, 0] >= _SHORTEST_S]
    tones = [Tone(s * beat, (e - s) * beat, int(key), _VELOCITY) for s, e, key, _ in heard]
    found: dict[str, tuple[str, Sequence[Tone]]] = {}
    if "bass" in band:
        found["bass"] = "bass", lowest_line([tone for tone in tones if _BASS[0] <= tone.midi <= _BASS[1]], beat)
    if (lead := _who_leads(band)) is not None:
        low, high = REACH[lead]
        low = max(low, _LOWEST_LINE) if "bass" in band else low
        found["lead"] = lead, skyline([tone for tone in tones if low <= tone.midi <= high])[0]
    least = max(_LEAST_NOTES, audio.shape[-1] / SAMPLE_RATE / 4)
    told = {role: part for role, part in found.items() if len(part[1]) >= least}
    notes = [
        ScoreNote(tone.start, max(tone.beats, 1 / 32), tone.midi, tone.velocity, player, role)
        for role, (player, line) in told.items()
        for tone in line
    ]
    return Score(tuple(notes), told=tuple(told), tempo=sheet.tempo, key=sheet.key)


def heard_phrases(records: Iterable[TakeRecord]) -> PhraseMemory | None:
    """The habits of whoever leads in takes that are learnt from; None where too little of them was heard.

    Copies at other tempi have the notes of what they are copies of, and count once with it.
    """
    heard: dict[Score, LeadSheet] = {}
    for record in records:
        if record.split == "train" and (score := record.score) is not None:
            heard.setdefault(score, record.lead_sheet)
    return PhraseMemory.of_scores(heard.items())


def lowest_line(tones: Sequence[Tone], beats_a_second: float) -> tuple[Tone, ...]:
    """Of notes that are struck together the lowest, each until the next begins.

    Transcribers double a bass at the octave above, hear overtones of a note that lasts, and its attack as a note of its
    own: none of these begins a new one.
    """
    together, again = _TOGETHER_S * beats_a_second, _AGAIN_S * beats_a_second
    line: list[Tone] = []
    for tone in sorted(tones, key=lambda tone: (tone.start, tone.midi)):
        before = line[-1] if line else None
        if before is None:
            line.append(tone)
        elif tone.start - before.start <= together:
            if tone.midi < before.midi:
                line[-1] = replace(tone, start=before.start)
        elif tone.midi == before.midi and tone.start - before.start <= again:
            line[-1] = replace(before, beats=max(before.beats, tone.start + tone.beats - before.start))
        elif tone.midi - before.midi not in (12, 19, 24) or before.start + before.beats <= tone.start + together:
            line.append(tone)
    ends = [*(tone.start for tone in line[1:]), float("inf")]
    return tuple(replace(tone, beats=min(tone.beats, end - tone.start)) for tone, end in zip(line, ends))


def _who_leads(band: Sequence[str]) -> str | None:
    lead = choose_lead(band)
    if lead in REACH and lead != "bass":
        return lead
    return next((name for name in CHORD_INSTRUMENTS if name in band), None)


__all__ = ["heard_phrases", "heard_score", "lowest_line"]
