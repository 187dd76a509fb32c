"""Plain songs in the corpus: what a melody that somebody brings is like."""

import dataclasses

import numpy as np
import pytest

from rtjazz_hf.corpus.prepare import CorpusSettings, draw_lead_sheet
from rtjazz_hf.corpus.songs import compose_song, write_song
from rtjazz_hf.music.vocabulary import is_minor, tonic


@pytest.fixture(params=[0, 3, 8])
def sheet(request):
    return draw_lead_sheet(np.random.default_rng([7, request.param]))


def test_a_song_is_one_line_of_one_loudness_in_its_key(sheet):
    notes = write_song(sheet, np.random.default_rng(1)).notes
    ends = [note.start + note.beats for note in notes]
    assert all(end <= after.start + 1e-6 for end, after in zip(ends, notes[1:]))
    assert notes[0].start >= 0 and ends[-1] <= sheet.num_beats + 1e-6
    assert len({note.velocity for note in notes}) == 1
    scale = {0, 2, 3, 5, 7, 8, 10} if is_minor(sheet.key) else {0, 2, 4, 5, 7, 9, 11}
    assert np.mean([(note.midi - tonic(sheet.key)) % 12 in scale for note in notes]) > 0.85


def test_the_band_plays_it_and_leads_with_nothing_else(sheet):
    take = compose_song(sheet, np.random.default_rng(2))
    assert take == compose_song(sheet, np.random.default_rng(2))
    played = [note for notes in take.notes.values() for note in notes]
    lead = sorted((note for note in played if note.role == "lead"), key=lambda note: note.start_s)
    assert {note.role for note in played} >= {"lead"} and len({note.role for note in played}) > 1
    assert len({note.velocity for note in lead}) == 1
    assert take.duration_s == pytest.approx(take.lead_sheet.time_of(sheet.num_beats))
    held = np.mean([note.duration_s for note in lead])
    assert held > 1.4 * 0.5 * 60 / sheet.tempo  # a quaver


def test_settings_hold_the_share():
    assert dataclasses.asdict(CorpusSettings(songs=0.2))["songs"] == 0.2
    with pytest.raises(ValueError, match="songs"):
        CorpusSettings(songs=1.5)
