import dataclasses
import json

import numpy as np
import pytest

from rtjazz_hf.audio import read_audio
from rtjazz_hf.band.composer import compose
from rtjazz_hf.corpus import prepare
from rtjazz_hf.corpus.dataset import as_dataset, load_takes
from rtjazz_hf.corpus.prepare import (
    CorpusSettings,
    _check_settings,
    draw_groove,
    draw_lead_sheet,
    draw_silent_players,
    make_take,
    prepare_corpus,
    split_of,
    takes_for,
    write_metadata,
)
from rtjazz_hf.music import GROOVE_GENRES, LeadSheet


@pytest.fixture
def short_takes(monkeypatch, renderer):
    """The real chain on four bars a take, with the font that is there."""

    def draw(rng, *groove):
        tempo = float(rng.uniform(150, 220))
        return LeadSheet.from_chart(
            "Dm7 | G7 | Cmaj7 | A7", tempo=tempo, instruments=("piano", "bass", "brushes")
        )

    monkeypatch.setattr(prepare, "draw_lead_sheet", draw)
    monkeypatch.setattr(prepare, "MEAN_TAKE_S", 36.0)  # 0.03 hours are three takes
    return CorpusSettings(seed=5, soundfont=renderer.soundfont, test_fraction=0.5)


class TestCorpus:
    def test_made_resumed_and_loaded(self, tmp_path, short_takes):
        summary = prepare_corpus(tmp_path, 0.03, short_takes, progress=False)
        assert summary["takes"] == 3 and summary["train"] + summary["test"] == 3
        takes = load_takes(tmp_path)
        assert [take.split for take in takes] == [split_of(index, 0.5) for index in range(3)]
        for take in takes:
            audio = take.audio()
            assert audio.shape == (2, round(take.duration * 48_000))
            assert take.lead_sheet.time_of(take.lead_sheet.num_beats) == pytest.approx(
                take.duration, abs=1e-3
            )
            assert take.lead_sheet.features(0, 10).shape[0] == 10 and len(take.captions) == 3

        again = tmp_path / "takes" / "000001"
        before = (again / "mix.flac").read_bytes()
        (again / "label.json").unlink()  # what an interrupt leaves
        assert len(load_takes(tmp_path)) == 2
        untouched = (tmp_path / "takes" / "000000" / "mix.flac").stat().st_mtime_ns
        prepare_corpus(tmp_path, 0.03, short_takes, progress=False)
        assert (again / "mix.flac").read_bytes() == before
        assert (tmp_path / "takes" / "000000" / "mix.flac").stat().st_mtime_ns == untouched

    def test_datasets_reads_it(self, tmp_path, short_takes):
        datasets = pytest.importorskip("datasets", reason="pip install 'rtjazz-hf[corpus]'")
        make_take(tmp_path, 0, short_takes)
        write_metadata(tmp_path)
        data = as_dataset(tmp_path)
        assert len(data) == 1 and read_audio(data[0]["audio"], 0, 1.0).shape == (2, 48_000)
        heard = as_dataset(tmp_path, decode=True)[0]["audio"]  # by soundfile: there need be no torchcodec
        assert heard["sampling_rate"] == 48_000 and np.shape(heard["array"])[0] == 2
        assert LeadSheet.from_dict(json.loads(data[0]["lead_sheet"])) == load_takes(tmp_path)[0].lead_sheet
        table = datasets.load_dataset(
            "json",
            data_files=str(tmp_path / "metadata.jsonl"),
            split="train",
            cache_dir=str(tmp_path / "cache"),
        )
        assert table[0]["genre"] == "swing"

    def test_stems_sum_to_the_mix(self, tmp_path, short_takes):
        settings = CorpusSettings(seed=1, soundfont=short_takes.soundfont, stems=True)
        make_take(tmp_path, 2, settings)
        take = load_takes(tmp_path)[0]
        assert set(take.stems) == {"piano", "bass", "brushes"}
        total = sum(read_audio(path) for path in take.stems.values())
        assert np.abs(total - take.audio()).max() < 3e-4  # 16 bits each

    def test_other_settings_are_refused(self, tmp_path, short_takes):
        prepare_corpus(tmp_path, 0.01, short_takes, progress=False)
        with pytest.raises(ValueError, match="other settings"):
            prepare_corpus(
                tmp_path, 0.01, CorpusSettings(seed=6, soundfont=short_takes.soundfont), progress=False
            )


class TestSettings:
    @pytest.mark.parametrize("bad", [{"soundfont": "x"}, {"test_fraction": 1.5}, {"seed": -1}])
    def test_bad_settings(self, bad):
        with pytest.raises(ValueError, match="choose"):
            CorpusSettings(**bad)

    def test_a_held_out_font_is_for_tests_alone(self):
        with pytest.raises(ValueError, match="held out: choose 1"):
            CorpusSettings(soundfont="timgm6mb")
        assert CorpusSettings(soundfont="timgm6mb", test_fraction=1.0).fonts == ("timgm6mb",)
        assert "timgm6mb" not in CorpusSettings().fonts
        assert {split_of(index, 1.0) for index in range(100)} == {"test"}

    @pytest.mark.parametrize("hours", [0, -1, float("nan"), 1e9])
    def test_bad_hours(self, hours):
        with pytest.raises(ValueError, match="hours"):
            takes_for(hours)

    def test_split_depends_on_the_index_alone_and_has_the_share(self):
        tests = [index for index in range(4000) if split_of(index, 0.05) == "test"]
        assert 0.03 < len(tests) / 4000 < 0.07
        assert set(tests) <= {index for index in range(4000) if split_of(index, 0.1) == "test"}

    def test_loading_nothing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="prepare_corpus"):
            load_takes(tmp_path)
        with pytest.raises(ValueError, match="train, test"):
            load_takes(tmp_path, "valid")


class TestMinusOne:
    def test_silent_players_leave_notes_and_sheet_and_nobody_else_changes(self):
        settings = CorpusSettings(minus_one=1.0)
        for index in range(6):
            take = compose(draw_lead_sheet(np.random.default_rng([0, index])), np.random.default_rng(index))
            silent = draw_silent_players(take.lead_sheet, settings, index)
            band = {name for section in take.lead_sheet.sections for name in section.instruments}
            assert 1 <= len(silent) <= 2 and set(silent) < band
            rest = take.without(*silent)
            left = {name for section in rest.lead_sheet.sections for name in section.instruments}
            assert left == band - set(silent)
            assert rest.notes == {name: notes for name, notes in take.notes.items() if name not in silent}
            assert rest.duration_s == take.duration_s

    def test_captions_are_of_who_is_heard_and_of_all(self, short_takes, tmp_path):
        make_take(tmp_path / "all", 0, short_takes)
        make_take(tmp_path / "less", 0, dataclasses.replace(short_takes, minus_one=1.0))
        write_metadata(tmp_path / "all"), write_metadata(tmp_path / "less")
        (everybody,), (fewer,) = load_takes(tmp_path / "all"), load_takes(tmp_path / "less")
        assert everybody.full_captions == () and fewer.full_captions == everybody.captions
        assert len(fewer.captions) == 3 and fewer.caption == fewer.captions[0]
        assert set(fewer.tags["instruments"]) < set(everybody.tags["instruments"])

    def test_nobody_is_silent_by_default_and_older_corpora_go_on(self, tmp_path):
        sheet = draw_lead_sheet(np.random.default_rng(1))
        assert draw_silent_players(sheet, CorpusSettings(), 3) == ()
        (tmp_path / "corpus.json").write_text(
            '{"seed": 0, "soundfont": "both", "stems": false, "test_fraction": 0.05}'
        )
        _check_settings(tmp_path, CorpusSettings())
        with pytest.raises(ValueError, match="other settings"):
            _check_settings(tmp_path, CorpusSettings(minus_one=0.5))

    def test_share_is_checked(self):
        with pytest.raises(ValueError, match="minus one"):
            CorpusSettings(minus_one=1.5)


class TestGrooves:
    SETTINGS = CorpusSettings(seed=3, grooves=0.3, metres=0.1)

    def test_shares_are_as_asked_and_the_rest_is_as_without(self):
        drawn = [draw_groove(self.SETTINGS, index) for index in range(2000)]
        grooves = sum(genre in GROOVE_GENRES and metre is None for genre, metre in drawn)
        assert 0.2 < grooves / 2000 < 0.3  # and those that have several metres
        assert 0.36 < sum(genre is not None for genre, _ in drawn) / 2000 < 0.44
        assert drawn == [draw_groove(self.SETTINGS, index) for index in range(2000)]
        assert {draw_groove(CorpusSettings(seed=3), index) for index in range(50)} == {(None, None)}
        free = next(index for index, each in enumerate(drawn) if each == (None, None))
        with_it, without = np.random.default_rng(free), np.random.default_rng(free)
        assert draw_lead_sheet(with_it, *drawn[free]) == draw_lead_sheet(without)

    def test_every_metre_and_groove_is_composed(self):
        done = set()
        for index in range(400):
            genre, metre = draw_groove(self.SETTINGS, index)
            if genre is None or (genre, str(metre)) in done:
                continue
            done.add((genre, str(metre)))
            sheet = draw_lead_sheet(np.random.default_rng(index), genre, metre)
            assert sheet.genre == genre and (metre is None or sheet.metre_of(0) == metre)
            assert 19 <= sheet.duration <= 42 and compose(sheet, np.random.default_rng(index)).notes["bass"]
        assert len(done) > 20

    def test_a_corpus_goes_on_as_it_was_begun(self, tmp_path):
        (tmp_path / "corpus.json").write_text(json.dumps({"seed": 3, "soundfont": "both", "stems": False}))
        _check_settings(tmp_path, CorpusSettings(seed=3))
        with pytest.raises(ValueError, match="other settings"):
            _check_settings(tmp_path, self.SETTINGS)

    def test_shares_that_cannot_be(self):
        with pytest.raises(ValueError, match="at most 1 together"):
            CorpusSettings(grooves=0.7, metres=0.4)
        with pytest.raises(ValueError, match=r"grooves 1\.5"):
            CorpusSettings(grooves=1.5)
