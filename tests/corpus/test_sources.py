"""Takes with recorded instruments beside a sound font, through the commands that make a corpus."""

import json

import numpy as np
import pytest
from scripts import load_script

from rtjazz_hf.corpus import prepare
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.instruments import load_instruments, loudness_of, reference_notes
from rtjazz_hf.corpus.lanes import Lane
from rtjazz_hf.corpus.prepare import CorpusSettings, prepare_corpus
from rtjazz_hf.corpus.sampler import shared_sampler
from rtjazz_hf.corpus.sources import RECORDED, _font_loudness, draw_sources, match_levels, render_mixed
from rtjazz_hf.music import LeadSheet

BAND = ("piano", "bass", "brushes", "alto_sax", "trumpet")


@pytest.fixture(scope="module")
def instruments(sfizz, instruments_folder, renderer):
    return match_levels(load_instruments(instruments_folder), renderer)


@pytest.fixture
def short_takes(monkeypatch, renderer):
    def draw(rng, genre=None, metre=None):
        return LeadSheet.from_chart("Dm7 | G7", tempo=float(rng.uniform(100, 140)), instruments=BAND)

    monkeypatch.setattr(prepare, "draw_lead_sheet", draw)
    monkeypatch.setattr(prepare, "MEAN_TAKE_S", 36.0)
    return CorpusSettings(seed=5, soundfont=renderer.soundfont, expression=True, recorded_share=0.7)


class TestLevels:
    def test_as_loud_as_the_fonts_own_player(self, instruments, renderer):
        for each in instruments:
            lane = Lane(tuple(note for note in reference_notes(each.player) if note.midi in each.keys))
            sound = shared_sampler(each.mapped).play([lane], 4.6, np.random.default_rng(0))
            assert loudness_of(sound) == pytest.approx(_font_loudness(renderer, each.player), abs=0.2)


class TestDraw:
    def test_shares_and_what_a_recorded_instrument_cannot_play(self, instruments, short_takes):
        take = prepare.compose(prepare.draw_lead_sheet(np.random.default_rng(0)), np.random.default_rng(1))
        fonts = ("musescore", "fluid")
        drawn = [draw_sources(take, fonts, instruments, 0.7, np.random.default_rng(n)) for n in range(200)]
        assert all(set(each) == set(take.notes) for each in drawn)
        bass = [each["bass"] for each in drawn]
        assert 0.6 < np.mean([source.startswith(RECORDED) for source in bass]) < 0.8 and set(fonts) < set(bass)
        assert {each["piano"] for each in drawn} == set(fonts)
        parts = (take, take.without("piano"))
        one, two = (draw_sources(part, fonts, instruments, 0.7, np.random.default_rng(3)) for part in parts)
        assert one == {**two, "piano": one["piano"]}
        low = [each for each in instruments if each.player == "bass"]
        low = [type(each)(each.name, each.player, each.mapped, frozenset({30}), each.fingerprint) for each in low]
        assert draw_sources(take, fonts, low, 1.0, np.random.default_rng(0))["bass"] in fonts


class TestCorpus:
    def test_made_resumed_and_loaded(self, tmp_path, short_takes, sfizz, instruments_folder):
        made = prepare_corpus(tmp_path, 0.03, short_takes, progress=False, instruments=instruments_folder)
        assert made["takes"] == 3 and made["takes_per_core_hour"] > 0
        takes = load_takes(tmp_path)
        used = {source for take in takes for source in take.sources.values()}
        assert any(source.startswith(RECORDED) for source in used) and short_takes.soundfont in used
        for take in takes:
            rate, cents = take.pitch
            assert rate == 75 and set(cents) <= {"bass", "alto_sax", "trumpet"}
            assert all(len(row) == np.ceil(take.duration * 75) and np.abs(row).max() < 1200 for row in cents.values())
            assert take.score.controls and np.isfinite(take.audio()).all()
        assert any(cents for take in takes for cents in [take.pitch[1]])
        table = (tmp_path / "SOURCES.md").read_text()
        assert "| recorded/upright_bass | a tone | this test | CC0 1.0 |" in table and "| bass | 3 |" in table

        again = tmp_path / "takes" / "000001"
        before = (again / "mix.flac").read_bytes(), (again / "pitch.json").read_bytes()
        (again / "label.json").unlink()
        prepare_corpus(tmp_path, 0.03, short_takes, progress=False, instruments=instruments_folder)
        assert ((again / "mix.flac").read_bytes(), (again / "pitch.json").read_bytes()) == before
        with pytest.raises(ValueError, match="other settings"):  # without them it would be another corpus
            prepare_corpus(tmp_path, 0.03, short_takes, progress=False)
        (again / "pitch.json").write_text("{")
        with pytest.raises(ValueError, match=r"pitch.json' cannot be read"):
            _ = load_takes(tmp_path)[1].pitch

    def test_stems_sum_to_the_mix(self, instruments, short_takes):
        from rtjazz_hf.band.expression import expressive

        sheet = prepare.draw_lead_sheet(np.random.default_rng(0))
        take = expressive(prepare.compose(sheet, np.random.default_rng(1)), 4)
        sources = draw_sources(take, (short_takes.soundfont,), instruments, 1.0, np.random.default_rng(0))
        rendering = render_mixed(take, sources, instruments, np.random.default_rng(2), stems=True)
        whole = render_mixed(take, sources, instruments, np.random.default_rng(2))
        assert np.allclose(sum(rendering.stems.values()), rendering.mix, atol=1e-5)
        assert all(np.abs(stem).max() > 1e-3 for stem in rendering.stems.values())
        gain = np.abs(whole.mix).max() / np.abs(rendering.mix).max()
        assert 0.8 < gain < 1.25 and set(rendering.stems) == set(take.notes)


class TestCommand:
    def test_a_bad_folder_writes_nothing(self, tmp_path, renderer, sfizz, capsys):
        script = load_script("prepare_corpus")
        (tmp_path / "instruments" / "trumpet").mkdir(parents=True)
        options = ["--hours", "1", "--soundfont", renderer.soundfont, "--instruments", str(tmp_path / "instruments")]
        assert script.main(["--out", str(tmp_path / "out"), *options, "--quiet"]) == 1
        said = capsys.readouterr()
        assert "trumpet: no .sfz" in said.err and not said.out and not (tmp_path / "out").exists()

    def test_tones_move_with_instruments_unless_told_otherwise(self):
        script = load_script("prepare_corpus")
        args = script.parse_args(["--out", "x", "--hours", "1", "--instruments", "y"])
        assert args.expression and args.recorded_share == 0.6
        assert not script.parse_args(["--out", "x", "--hours", "1"]).expression
        assert not script.parse_args(["--out", "x", "--hours", "1", "--instruments", "y", "--no-expression"]).expression

    def test_instruments_are_for_composed_music(self, capsys):
        with pytest.raises(SystemExit):
            load_script("prepare_corpus").parse_args(["--out", "x", "--real", "--instruments", "y"])
        assert "give --hours too" in capsys.readouterr().err


def test_older_corpora_go_on(tmp_path):
    before = {"seed": 0, "soundfont": "both", "stems": False, "minus_one": 0.0}
    (tmp_path / "corpus.json").write_text(json.dumps(before))
    prepare._check_settings(tmp_path, CorpusSettings())
    with pytest.raises(ValueError, match="other settings"):
        prepare._check_settings(tmp_path, CorpusSettings(expression=True))
