"""Charts from elsewhere through the pipeline: files, links, and what is not played."""

from __future__ import annotations

import warnings

import pytest

from rtjazz_hf.band.band_leader import NotPlayed
from rtjazz_hf.charts import to_link
from rtjazz_hf.music import parse_chart

TUNE = "title: Mine\nkey: F\ntempo: 200\n5/4 Gm7 | C7 | 6/8 F"


def test_files_and_links_are_played(tiny_pipeline, tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(TUNE)
    spans = parse_chart(TUNE).spans
    for chords in (path, str(path), TUNE, to_link(parse_chart(TUNE))):
        out = tiny_pipeline("swing trio", duration=0.5, chords=chords)
        sheet = out.lead_sheets[0]
        assert sheet.spans[: len(spans)] == spans[: len(sheet.spans)]
        assert (sheet.tempo, sheet.key, sheet.title) == (200, "F", "Mine")
        assert str(sheet.metre_of(0)) == "5/4"
    with tiny_pipeline.live("swing trio", chords=path, block_frames=6) as session:
        next(session)
        assert session.lead_sheet.title == "Mine"
        session.update(chords="C | F")
        with pytest.raises(ValueError, match="name of a file"):
            session.update(chords=str(path))
        session.update(chords=path)
        assert session.lead_sheet.title == "Mine"


def test_what_is_not_played_is_told(tiny_pipeline):
    with pytest.warns(NotPlayed, match="'singer': nobody sings"):
        tiny_pipeline.prepare_lead_sheet("swing with a singer")
    with pytest.warns(NotPlayed, match="'loudly' is not played"):
        tiny_pipeline.prepare_lead_sheet("swing", chords='C "loudly" | F')
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotPlayed)
        tiny_pipeline.prepare_lead_sheet("medium swing piano trio", chords="C | F")


def test_a_ramp_changes_the_tempo_at_the_chorus(tiny_pipeline):
    from types import SimpleNamespace

    from rtjazz_hf.cli.play import _ramp

    with tiny_pipeline.live("swing trio", chords="1/4 C7 | F7", tempo=300, block_frames=36) as session:
        after = _ramp(SimpleNamespace(ramp="300:320/1+10", chords="1/4 C7 | F7"), session)
        tempi = []
        for _ in range(5):
            after(next(session))
            tempi.append(session.lead_sheet.tempo)
        assert tempi[0] >= 300 and tempi[-1] == 320 and tempi == sorted(tempi)
