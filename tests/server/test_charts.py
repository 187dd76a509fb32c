"""Files of chords sent to the server."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from rtjazz_hf.server.app import _read_chart
from rtjazz_hf.server.schemas import ClipRequest, Start, not_played
from rtjazz_hf.server.settings import MAX_CHART_BYTES


def test_names_of_files_open_nothing(tmp_path, monkeypatch):
    (tmp_path / "tune.txt").write_text("C | F")
    monkeypatch.chdir(tmp_path)
    for chords in ("tune.txt", str(tmp_path / "tune.txt"), "../tune.musicxml"):
        with pytest.raises(ValidationError, match="name of a file"):
            ClipRequest(prompt="swing", chords=chords)
    assert ClipRequest(prompt="swing", chords="C | F").chords == "C | F"


def test_links_become_charts_and_what_is_not_played_is_told():
    request = ClipRequest(prompt="swing with a singer", chords="irealbook://A=B=S=C=n=T44[C^7 |G7 <loud>Z")
    assert "Cmaj7 | G7" in request.chords
    assert any("singer" in line for line in not_played(request))
    assert not_played(Start(prompt="swing trio")) == []


def test_a_file_is_read():
    read = _read_chart(b"title: Mine\nkey: F\nGm7 | C7 | F :|\nla la la\n", None)
    assert (read.title, read.key, read.bars, read.tunes) == ("Mine", "F", 6, [""])
    assert "la la la" in read.remarks[0] and read.chart.endswith("Gm7 | C7 | F | Gm7 | C7 | F")
    with pytest.raises(ValueError, match="unknown chord 'Hm7'"):
        _read_chart(b"C | Hm7", None)
    assert MAX_CHART_BYTES <= 4 << 20
