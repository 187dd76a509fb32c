"""The command training/prepare_corpus.py: options, exit codes, where its errors go."""

import json

import pytest
from scripts import load_script

from rtjazz_hf.corpus import prepare
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.renderer import RendererUnavailable, find_soundfont
from rtjazz_hf.music import LeadSheet


@pytest.fixture(scope="module")
def script():
    return load_script("prepare_corpus")


class TestOptions:
    def test_hours_or_real(self, script, capsys):
        with pytest.raises(SystemExit) as left:
            script.parse_args(["--out", "x"])
        assert left.value.code == 2 and "--hours, --real or both" in capsys.readouterr().err
        assert script.parse_args(["--out", "x", "--real"]).hours is None

    def test_real_music_is_skipped_unless_asked_for(self, script):
        args = script.parse_args(["--out", "x", "--hours", "1"])
        assert not args.real and args.test_fraction == 0.05

    def test_a_held_out_font_makes_tests_alone(self, script):
        args = script.parse_args(["--out", "x", "--hours", "1", "--soundfont", "timgm6mb"])
        assert args.test_fraction == 1.0


class TestErrors:
    def test_no_apt(self, script, tmp_path, monkeypatch, capsys):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert script.main(["--real", "--out", str(tmp_path / "out")]) == 1
        said = capsys.readouterr()
        assert said.err.splitlines()[-1].startswith("error: apt-get is missing") and not said.out

    @pytest.mark.parametrize("options", [["--real-hours", "0"], ["--hours", "-1"]])
    def test_bad_numbers(self, script, tmp_path, options, capsys):
        assert script.main(["--real", "--out", str(tmp_path / "out"), *options]) == 1
        assert "error: hours" in capsys.readouterr().err

    def test_held_out_font_for_training(self, script, tmp_path, capsys):
        options = ["--hours", "1", "--soundfont", "timgm6mb", "--test-fraction", "0.1"]
        assert script.main(["--out", str(tmp_path / "out"), *options]) == 1
        assert "held out" in capsys.readouterr().err


def test_the_held_out_font_through_the_command(script, tmp_path, monkeypatch, capsys):
    pytest.importorskip("pyloudnorm", reason="pip install 'rtjazz-hf[corpus]'")
    try:
        find_soundfont("timgm6mb")
        prepare.shared_renderer("timgm6mb")
    except RendererUnavailable as error:
        pytest.skip(str(error))

    def draw(rng, *groove):
        return LeadSheet.from_chart("Dm7 | G7", tempo=200, instruments=("piano", "bass", "brushes"))

    monkeypatch.setattr(prepare, "draw_lead_sheet", draw)
    options = ["--hours", "0.01", "--workers", "1", "--quiet", "--soundfont", "timgm6mb"]
    assert script.main(["--out", str(tmp_path), *options]) == 0
    assert json.loads(capsys.readouterr().out)["test"] == 1
    assert [take.soundfont for take in load_takes(tmp_path, "test")] == ["timgm6mb"]
