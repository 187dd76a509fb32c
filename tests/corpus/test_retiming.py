"""Copies at other tempi: what is heard there is what their labels say."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_takes import played

from rtjazz_hf.audio import SAMPLE_RATE, write_audio
from rtjazz_hf.corpus.personal import analyse, prepare_takes
from rtjazz_hf.corpus.retiming import FASTEST, SLOWEST, other_tempi, retime, stretch
from rtjazz_hf.music import LeadSheet

pytest.importorskip("python_stretch")
CHART = "Dm7 | G7 | Cmaj7 | A7"


@pytest.mark.parametrize("speed", [0.5, 0.8, 1.0, 1.7])
def test_clicks_stay_in_their_places(speed):
    places = np.arange(0.5, 6.0, 0.5)
    audio = np.zeros((2, 6 * SAMPLE_RATE), dtype=np.float32)
    burst = np.random.default_rng(0).standard_normal(2000) * np.exp(-np.arange(2000) / 300)
    for place in places:
        audio[:, round(place * SAMPLE_RATE) :][:, :2000] += burst
    out = stretch(audio, speed)
    assert out.shape == (2, round(audio.shape[1] / speed))
    for place in places[:-1]:
        start = round((place / speed - 0.1) * SAMPLE_RATE)
        energy = np.square(out[0, start : start + SAMPLE_RATE // 5], dtype=np.float64)
        centre = (energy * np.arange(len(energy))).sum() / energy.sum() / SAMPLE_RATE - 0.1
        assert abs(centre) < 0.012


@pytest.mark.parametrize("tempo", [84.0, 160.0])
def test_a_copy_sounds_as_its_label_says(tempo):
    pytest.importorskip("librosa")
    sheet = LeadSheet.from_chart(CHART, 120)
    audio, label = retime(played(120, 16.0, CHART), sheet, tempo)
    assert label.tempo == tempo and label.swing == sheet.swing and label.num_beats == sheet.num_beats
    heard = analyse(audio)
    assert 60 / np.median(np.diff(heard.times)) == pytest.approx(tempo, rel=0.02)
    true = [label.chord_segments(time + 0.08, 0.05)[0][2].root for time in heard.times[:-2]]
    assert np.mean([one.root == root for one, root in zip(heard.chords, true)]) > 0.6


@pytest.mark.parametrize("tempo", [45.0, 60.0, 100.0, 175.0, 300.0])
def test_tempi_are_spread_over_what_charts_ask(tempo):
    for count in (0, 1, 4):
        tempi = other_tempi(tempo, count, np.random.default_rng(0))
        assert len(tempi) == count and tempi == sorted(tempi)
        assert all(min(tempo, SLOWEST) <= each <= max(tempo, FASTEST) for each in tempi)
        assert all(tempo / 2.5 <= each <= tempo * 2 + 1e-9 for each in tempi)


def test_copies_are_prepared_beside_their_piece(tmp_path):
    pytest.importorskip("librosa")
    (tmp_path / "in").mkdir()
    write_audio(tmp_path / "in" / "take.wav", played(120, 12.0, CHART))
    write_audio(tmp_path / "in" / "other.wav", played(150, 12.0, CHART))
    how = {"name": "me", "minimum_seconds": 10, "pictures": False}
    plain, report = prepare_takes(tmp_path / "in", tmp_path / "out", **how)
    records, same = prepare_takes(tmp_path / "in", tmp_path / "out", **how, copies=2)
    assert len(records) == 3 * len(plain) and same.minutes == report.minutes
    assert {record.split for record in records} == {"train", "test"}
    for index, piece in enumerate(plain):
        own, *copies = records[3 * index : 3 * index + 3]
        assert own.lead_sheet == piece.lead_sheet and len({one.lead_sheet.tempo for one in copies}) == 2
        for one in copies:
            assert one.split == own.split
            assert one.duration == pytest.approx(
                own.duration * own.lead_sheet.tempo / one.lead_sheet.tempo, abs=1e-4
            )
    again, _ = prepare_takes(tmp_path / "in", tmp_path / "out", **how, copies=2)
    assert [one.lead_sheet for one in again] == [one.lead_sheet for one in records]
