"""`rtjazz charts`, and the options that bring charts."""

from __future__ import annotations

import io
import json

import pytest

from rtjazz_hf import cli
from rtjazz_hf.charts import to_link
from rtjazz_hf.cli.charts import practise
from rtjazz_hf.music import parse_chart

TUNE = "title: Mine\nkey: F\n[A] Gm7 | C7 | Fmaj7 | D7 :|\n[B] Bb7 | %"


@pytest.fixture
def tune(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text(TUNE)
    return path


def test_show_says_bar_by_bar_what_is_read_and_what_is_not(tune, capsys):
    tune.write_text(TUNE + '\nla la la\nC "loud" | F')
    assert cli.main(["charts", "show", str(tune)]) == 0
    out = capsys.readouterr().out
    assert "Mine" in out and "key F" in out and "[B]" in out and "Gm7:4" in out and "12 bars as played" in out
    assert "line 5 was not read: 'la la la'" in out and "'loud' is not played" in out


def test_show_as_json_text_and_link(tune, capsys):
    chart = parse_chart(TUNE)
    assert cli.main(["charts", "show", str(tune), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["title"] == "Mine" and len(data["bars"]) == 10 and data["sections"][0] == [1, "A"]
    assert cli.main(["charts", "show", str(tune), "--text"]) == 0
    assert parse_chart(capsys.readouterr().out).bars == chart.bars
    assert cli.main(["charts", "show", str(tune), "--link"]) == 0
    link = capsys.readouterr().out.strip()
    assert cli.main(["charts", "show", link, "--text"]) == 0
    assert parse_chart(capsys.readouterr().out).spans == chart.spans


def test_list_and_what_cannot_be_played(tmp_path, capsys):
    bad = to_link(parse_chart("title: Good\nC | F")).replace("irealb://", "")
    page = tmp_path / "list.html"
    page.write_text(f'<html><a href="irealb://{bad}">x</a> <a href="irealbook://Bad=B=S=C=n=T44%7CH7 |">y</a></html>')
    page.write_text(page.read_text().replace("H7 |", "%7BC%7CN1F%7CG%7CZ"))
    assert cli.main(["charts", "list", str(page), "--check", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["plays"] for row in rows] == [True, False] and "first ending" in rows[1]["reason"]


@pytest.mark.parametrize("source", ["missing.musicxml", "ireal://x"])
def test_what_is_not_there_is_refused(source, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["charts", "show", source]) == 2
    assert "rtjazz: error:" in capsys.readouterr().err


def parsed(*options):
    return cli.build_parser().parse_args(["generate", "swing", "-o", "x.wav", *options])


def test_chart_option_takes_files_links_and_standard_input(tune, monkeypatch):
    chart = parse_chart(TUNE)
    link = to_link(chart)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TUNE.encode())))
    for source in (str(tune), link, "-", f"{tune}#1"):
        assert parse_chart(parsed("--chart", source).chords).spans == chart.spans


def test_practice_options(tune):
    chart = parse_chart(TUNE)
    args = parsed("--chart", str(tune), "--transpose", "+2", "--only-bars", "1-2", "--all-keys", "--swing", "0.5")
    practise(args)
    made = parse_chart(args.chords)
    assert len(made.bars) == 24 and made.swing == 0.5 and made.bars[0][0].chord == chart.bars[0][0].chord.transpose(2)
    for options in (["--transpose", "up"], ["--only-bars", "99"], ["--swing", "7"]):
        with pytest.raises(ValueError, match=r"transpose|bars|swing"):
            practise(parsed("--chart", str(tune), *options))
    with pytest.raises(ValueError, match="needs a chart"):
        practise(parsed("--transpose", "+2"))


def test_count_in():
    import numpy as np

    from rtjazz_hf.live.playback import count_in
    from rtjazz_hf.music import LeadSheet

    music = np.full((2, 100), 0.25, dtype=np.float32)
    made = count_in(music, LeadSheet.from_chart("6/8 C", tempo=120), 2)
    assert made.shape == (2, 2 * 72_000 + 100) and np.array_equal(made[:, -100:], music)
    clicks = np.flatnonzero(np.abs(made[0, :-100]) > 0.05)
    starts = clicks[np.flatnonzero(np.diff(clicks, prepend=-9999) > 9000)]
    assert np.allclose(starts, np.arange(4) * 36_000, atol=40)  # two to a bar
