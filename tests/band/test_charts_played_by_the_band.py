"""The band plays whatever a chart can say: every metre, changes of it, rests, holds, stops and breaks."""

from __future__ import annotations

import io

import numpy as np
import pytest

from rtjazz_hf.band import Band, Score, fit_melody, write_lead_sheet
from rtjazz_hf.band.composer import compose
from rtjazz_hf.band.ensemble import conditions_of
from rtjazz_hf.band.midi import midi_bytes
from rtjazz_hf.music import LeadSheet
from rtjazz_hf.music.score_features import NOTE_ROLES, SCORE_DIM, SCORE_SLICES

METRES = [
    *(f"{count}/4" for count in range(1, 16)), "5/4(2+3)", "2/2", "3/2", "15/2",
    "3/8", "5/8", "6/8", "7/8", "7/8(3+2+2)", "9/8", "12/8", "15/8", "7/16",
]  # fmt: skip
CHANGES = "Gm7 | C7 | 5/4 Fmaj7 | 7/8 D7 | 6/8 Gm7 C7 | 2/4 F | 3/4 D7 | 4/4 Gm7"
SAID = "N.C. | <Dm7> | G7! | (break) Cmaj7 | <Dm7> <G7> | Cmaj7 | N.C. / Dm7 / | %"
BAND = ("tenor_sax", "trumpet", "piano", "bass", "drums")


def sheet_of(chart: str, **more) -> LeadSheet:
    return LeadSheet.from_chart(chart, tempo=180, instruments=BAND, **more)


def played(sheet: LeadSheet, beats: float, step: float = 3.7) -> Score:
    band, notes = Band(sheet, seed=5), []
    for until in [*np.arange(step, beats, step), beats]:
        notes += band.write(float(until)).notes
    return Score(tuple(sorted(notes, key=lambda note: note.start)), told=NOTE_ROLES)


@pytest.mark.parametrize("genre", ["swing", "bossa", "ballad"])
@pytest.mark.parametrize("chart", [*(f"{metre} Dm7 | G7 | Cmaj7 | A7" for metre in METRES), CHANGES, SAID])
def test_every_chart_is_played_and_told(chart, genre):
    if chart.startswith("15/2"):
        with pytest.raises(ValueError, match="30"):  # more than a lead sheet's bar can have
            sheet_of(chart)
        return
    sheet = sheet_of(chart, genre=genre)
    score = played(sheet, 2 * sheet.num_beats)
    assert {note.role for note in score.notes} >= {"lead", "bass", "comp", "drums"}
    assert all(note.beats > 0 for note in score.notes)
    told = conditions_of(sheet, Band(sheet, 5), 0, 300, SCORE_DIM)[:, -SCORE_DIM:]
    assert np.isfinite(told).all()
    for name in ("beat_in_bar", "beats_per_bar"):
        assert (told[:, SCORE_SLICES[name]].sum(axis=1) == 1).all()
    take = compose(write_lead_sheet("quintet", chords=chart, duration=8.0), np.random.default_rng(1))
    assert take.notes
    assert fit_melody(Score(score.only(["lead"]).notes), sheet)[0].notes


def test_the_metre_is_that_of_the_bar():
    sheet = sheet_of(CHANGES)
    told = conditions_of(sheet, None, 0, 3000, SCORE_DIM)[:, -SCORE_DIM:]
    beats = sheet.beat_at(0) + np.arange(3000) * sheet.tempo / 60 / 75 + 1e-6
    expected = {0: 4, 2: 5, 3: 3, 4: 2, 5: 2, 6: 3, 7: 4}  # felt beats: 7/8 is 2 + 2 + 3, 6/8 two dotted ones
    counts = told[:, SCORE_SLICES["beats_per_bar"]].argmax(axis=1) + 1
    place = told[:, SCORE_SLICES["beat_in_bar"]].argmax(axis=1)
    pulse = told[:, SCORE_SLICES["group_pulse"].start]
    for frame, beat in enumerate(beats):
        bar, within = sheet.bar_at(beat)
        assert counts[frame] == expected.get(bar % sheet.num_bars, 4)
        if within < 0.03:
            assert place[frame] == 0 and pulse[frame] > 0.8


def test_bars_on_the_grid_are_told_as_before():
    plain, other = sheet_of("Dm7 | G7"), sheet_of("Dm7 | G7 | 3/4 C")
    one, two = (conditions_of(sheet, None, 0, 180, SCORE_DIM)[:, -SCORE_DIM:] for sheet in (plain, other))
    assert np.allclose(one, two, atol=1e-5)  # 7.2 beats, before the change


def test_rests_holds_and_breaks_are_obeyed():
    sheet = sheet_of("N.C. | <Dm7> | Dm7 | (break) G7 | Cmaj7 | %")
    score = played(sheet, 4 * sheet.num_beats)
    for turn in range(4):
        at = turn * sheet.num_beats
        rest = [note for note in score.notes if at + 0.1 < note.start < at + 3.4]
        assert not rest
        held = [note for note in score.notes if at + 4.5 < note.start < at + 7.2 and note.role != "lead"]
        assert not held
        struck = [note for note in score.notes if at + 3.8 < note.start < at + 4.3 and note.role in ("bass", "comp")]
        assert {note.role for note in struck} == {"bass", "comp"} and all(note.beats > 3.3 for note in struck)
        alone = {note.player for note in score.notes if at + 12.3 < note.start < at + 15.4}
        assert alone <= {"tenor_sax"}
        ringing = [
            note for note in score.notes
            if note.player != "tenor_sax" and note.start < at + 12 and note.start + note.beats > at + 12.3
        ]  # fmt: skip
        assert not ringing


def test_a_long_rest_leaves_the_drums_alone():
    sheet = sheet_of("Dm7 | G7 | N.C. | N.C. | Cmaj7 | %")
    score = played(sheet, 2 * sheet.num_beats)
    resting = [note for note in score.notes if 8.2 < note.start % sheet.num_beats < 15.4]
    assert {note.player for note in resting} == {"drums"}


def test_what_is_split_is_whole_through_changes_of_metre():
    sheet = sheet_of(CHANGES)
    assert played(sheet, 60.0, 60.0) == played(sheet, 60.0, 2.3)


def test_changes_of_metre_are_in_the_file():
    mido = pytest.importorskip("mido")
    sheet = sheet_of(CHANGES)
    file = mido.MidiFile(file=io.BytesIO(midi_bytes(played(sheet, 2 * sheet.num_beats), sheet)))
    at, signs = 0, []
    for message in file.tracks[0]:
        at += message.time
        if message.type == "time_signature":
            signs.append((at / file.ticks_per_beat, f"{message.numerator}/{message.denominator}"))
    assert signs[:7] == [
        (0, "4/4"), (8, "5/4"), (13, "7/8"), (16.5, "6/8"), (19.5, "2/4"), (21.5, "3/4"), (24.5, "4/4"),
    ]  # fmt: skip
