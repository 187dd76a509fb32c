"""training/evaluate_codec.py through `main()`: a tiny codec on takes of plain tones and a few recordings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scripts import load_script
from synthetic_takes import write_takes
from tiny_models import plucked_clip

from rtjazz_hf.audio import write_audio
from rtjazz_hf.band.composer import compose
from rtjazz_hf.band.score import Score
from rtjazz_hf.evaluation.clips import clips_of_recordings
from rtjazz_hf.evaluation.codec_verdicts import verdicts
from rtjazz_hf.evaluation.measures import tuning
from rtjazz_hf.evaluation.measures.tuning import MOVES, NOTES
from rtjazz_hf.music import LeadSheet

pytest.importorskip("matplotlib")
pytest.importorskip("pyloudnorm")
pytest.importorskip("zimtohrli")
pytest.importorskip("visqol")
needs_opus = pytest.mark.skipif(
    not (shutil.which("opusenc") or shutil.which("ffmpeg")),
    reason="neither opus-tools nor ffmpeg is installed",
)


@pytest.fixture(scope="module")
def evaluate_codec():
    return load_script("evaluate_codec")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    corpus = write_takes(tmp_path_factory.mktemp("corpus"), count=3, held_out=2)
    folder = corpus / "takes" / "000001"  # the notes of one of those held out are known
    sheet = LeadSheet.from_dict(json.loads((folder / "label.json").read_text())["lead_sheet"])
    score = Score.of_take(compose(sheet, np.random.default_rng(0)))
    (folder / "score.json").write_text(json.dumps(score.to_dict()))
    return corpus


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Two packages of recordings, and what has to be passed over."""
    root = tmp_path_factory.mktemp("real")
    clip = plucked_clip(3.0)[0].numpy()
    for package, name, audio in (
        ("alpha", "one", clip), ("alpha", "two", 0.5 * clip), ("alpha", "short", clip[:, :4800]),
        ("beta", "three", clip[:, ::-1]), ("beta", "silent", 0 * clip),
    ):  # fmt: skip
        (root / package).mkdir(exist_ok=True)
        write_audio(root / package / f"{name}.flac", audio)
    (root / "beta" / "broken.ogg").write_bytes(b"OggS and nothing else")
    return root


@needs_opus
class TestReport:
    @pytest.fixture(scope="class")
    def arguments(self, corpus, recordings, tiny_folder, tmp_path_factory) -> list[str]:
        return [
            "--codec", str(tiny_folder), "--takes", str(corpus), "--real", str(recordings), "--seconds", "1",
            "--num-takes", "1", "--levels", "1", "4", "8", "--opus-rates", "16", "32", "--json", "--quiet",
            "--cache", str(tmp_path_factory.mktemp("cache")),
        ]  # fmt: skip

    @pytest.fixture(scope="class")
    def report(self, evaluate_codec, arguments, tmp_path_factory):
        out = tmp_path_factory.mktemp("report") / "new"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tuning, "SECONDS", 1.0)  # of each of fifteen tones; in full: test_tuning
            assert evaluate_codec.main([*arguments, "--out", str(out)]) == 0
        return out, json.loads((out / "codec.json").read_text())

    def test_rows_are_the_codec_at_every_level_and_opus(self, report):
        _, report = report
        assert list(report["sets"]) == ["composed", "real"]
        for data in report["sets"].values():
            names = [row["name"] for row in data["rows"]]
            assert names == ["un-quantised latents", "1 level", "4 levels", "Opus 16", "Opus 32"]
            by_name = {row["name"]: row for row in data["rows"]}
            assert by_name["un-quantised latents"]["bitrate"] is None
            assert by_name["4 levels"]["bitrate"] == pytest.approx(4 * 6 * 75)  # 64 entries
            assert 10_000 < by_name["Opus 16"]["bitrate"] < 26_000
            assert by_name["Opus 32"]["snr"] > by_name["Opus 16"]["snr"]
            for row in data["rows"][1:]:
                assert row["snr"] < row["snr_bound"]

    def test_codebooks_of_every_level_are_counted(self, report):
        books = report[1]["sets"]["composed"]["codebooks"]
        assert len(books["usage"]) == len(books["perplexity"]) == 4
        assert all(0 < usage <= 1 for usage in books["usage"])
        assert all(1 <= perplexity <= 64 for perplexity in books["perplexity"])
        assert books["frames"] > 3 * 75  # the whole take, not the clip of a second

    def test_every_asked_figure_has_its_verdict(self, report):
        _, report = report
        whats = [row["what"] for row in report["table"]]
        assert all(row["ok"] in (True, False, None) for row in report["table"])
        assert sum("mel distance" in what for what in whats) == 5
        for words in ("glide, median error", "Zimtohrli", "partials 1 to 13", "valleys"):
            assert any(words in what for what in whats), words
        assert [row["name"] for row in report["tuning"]][1:] == ["1 level", "4 levels", "Opus 16", "Opus 32"]
        by_name = {row["name"]: row for row in report["tuning"]}
        assert by_name["Opus 32"]["glide"] < 5
        for words in ("usage", "SNR in dB by levels", "rate of 40 dB SNR", "decode in random splits"):
            assert any(words in what for what in whats), words
        asked_of_24 = next(row for row in report["table"] if "24 kbit/s" in row["asked"])
        assert asked_of_24["ok"] is None and "was not run" in asked_of_24["measured"]
        forty = next(row for row in report["table"] if "composed, rate of 40 dB" in row["what"])
        assert "codes: never" in forty["measured"] and "bound: " in forty["measured"]

    def test_notes_are_heard_in_renders_and_copies(self, report):
        _, report = report
        notes = report["notes"]
        if "skipped" in notes:
            pytest.skip(notes["skipped"])
        assert notes["takes"] == 1  # the other has no score
        assert [row["name"] for row in notes["rows"]] == ["renders", "un-quantised latents", "4 levels"]
        assert all(0 <= row["bass_f1"] <= 1 for row in notes["rows"])
        asked = [row for row in report["table"] if row["asked"] == ">= 0.92"]
        assert ["bass notes" in row["what"] for row in asked] == [True, True]

    def test_pictures_clips_and_pages_are_there(self, report):
        out, report = report
        assert len(report["pictures"]) == 4
        for name in [*report["pictures"], "codec.md"]:
            assert (out / name).stat().st_size > 1000
        assert len(list((out / "clips").glob("*.flac"))) == 8  # two sets, a clip each, four versions
        page = (out / "codec.md").read_text()
        assert "| Opus 16 |" in page and "Reverse water-filling" in page

    def test_a_second_run_takes_opus_from_the_cache_and_says_the_same(
        self, evaluate_codec, arguments, report, tmp_path, monkeypatch, capsys
    ):
        from rtjazz_hf.evaluation.measures import opus

        def refuse(*_):
            raise AssertionError("encoded again")

        monkeypatch.setattr(opus, "_encode", refuse)
        place = arguments.index("--real")
        composed_only = arguments[:place] + arguments[place + 2 :]
        assert evaluate_codec.main([*composed_only, "--no-tones", "--out", str(tmp_path)]) == 0
        again = json.loads(capsys.readouterr().out)["sets"]["composed"]
        for row, other in zip(report[1]["sets"]["composed"]["rows"], again["rows"]):
            for key, value in row.items():
                same = pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value
                assert other[key] == same


def test_opus_may_be_left_out_and_a_codec_folder_is_enough(evaluate_codec, corpus, tiny_folder, tmp_path):
    arguments = ["--codec", str(tiny_folder / "codec"), "--font-takes", str(corpus), "--seconds", "1", "--quiet",
                 "--no-tones", "--num-takes", "1", "--levels", "1", "--opus-rates", "--out", str(tmp_path)]  # fmt: skip
    assert evaluate_codec.main(arguments) == 0
    report = json.loads((tmp_path / "codec.json").read_text())
    assert [row["kind"] for row in report["sets"]["font"]["rows"]] == ["latents", "codes"]
    assert report["settings"]["opus"] is None


def test_damaged_takes_are_passed_over_named_and_counted(evaluate_codec, tiny_folder, tmp_path, capsys):
    corpus = write_takes(tmp_path / "corpus", count=5, held_out=5)
    cut, empty, gone, silent = (corpus / "takes" / f"{index:06d}" / "mix.flac" for index in range(4))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])  # its first second is there
    empty.write_bytes(b"")
    gone.unlink()
    write_audio(silent, np.zeros((2, 96_000)), overwrite=True)
    arguments = ["--codec", str(tiny_folder), "--takes", str(corpus), "--seconds", "1", "--levels", "1",
                 "--opus-rates", "--quiet", "--no-tones", "--out", str(tmp_path / "out")]  # fmt: skip
    assert evaluate_codec.main(arguments) == 0
    said = capsys.readouterr().err
    report = json.loads((tmp_path / "out" / "codec.json").read_text())
    assert report["sets"]["composed"]["clips"] == ["000004"] and len(report["passed_over"]) == 4
    for file in (cut, empty, gone, silent):
        assert sum(str(file) in line for line in said.splitlines()) == 1
    assert "Passed over, 4:" in (tmp_path / "out" / "codec.md").read_text()
    shutil.rmtree(corpus / "takes" / "000004")
    assert evaluate_codec.main(arguments) == 1
    assert "no held-out take to judge by: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, said",
    [
        (["--codec", "CODEC", "--takes", "CORPUS", "--device", "nonsense"], "--device nonsense"),
        (["--codec", "CODEC/transformer", "--takes", "CORPUS"], "not a codec"),
        (["--codec", "no/such/folder", "--takes", "CORPUS"], "no/such/folder"),
        (["--codec", "CODEC", "--takes", "no/corpus"], "no/corpus"),
        (["--codec", "CODEC", "--real", "no/music"], "no/music"),
        (["--codec", "CODEC", "--takes", "CORPUS", "--levels", "8"], "1 to 4"),
    ],
)
def test_wrong_input_is_named(evaluate_codec, corpus, tiny_folder, tmp_path, capsys, wrong, said):
    wrong = [word.replace("CORPUS", str(corpus)).replace("CODEC", str(tiny_folder)) for word in wrong]
    assert evaluate_codec.main([*wrong, "--opus-rates", "--seconds", "1", "--out", str(tmp_path)]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong, said",
    [(["--seconds", "nan"], "1 to 600"), (["--seconds", "inf"], "1 to 600"), (["--num-takes", "0"], "at least 1"),
     (["--out", "FILE"], "is a file"), (["--cache", "FILE"], "is a file")],
)  # fmt: skip
def test_wrong_settings_are_refused_at_once(evaluate_codec, tmp_path, capsys, wrong, said):
    file = tmp_path / "file"
    file.write_text("precious")
    wrong = [word.replace("FILE", str(file)) for word in wrong]
    with pytest.raises(SystemExit):
        evaluate_codec.main(["--takes", "corpus", "--out", str(tmp_path), *wrong])
    assert said in capsys.readouterr().err and file.read_text() == "precious"


def test_nothing_to_do_is_said_at_once(evaluate_codec, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate_codec.main(["--out", str(tmp_path)])
    assert "--takes" in capsys.readouterr().err


class TestRecordings:
    def test_packages_take_turns_and_bad_files_are_named(self, recordings):
        clips, skipped = clips_of_recordings(recordings, 10, 2.0)
        assert [clip.group for clip in clips] == ["alpha", "beta", "alpha"]
        assert len(skipped) == 3
        for name in ("short", "silent", "broken"):
            assert any(name in line for line in skipped)
        assert all(clip.read(2.0).shape == (2, 96_000) for clip in clips)
        assert clips[0].read(60.0).shape == (2, 144_000)  # all there is

    def test_any_rate_and_type_and_mono(self, tmp_path):
        """Read as the 48 kHz stereo that they stand for; what holds no sound to judge by is named."""
        clip = plucked_clip(3.0)[0].numpy().T
        broken = np.where(np.arange(len(clip))[:, None] == 5, np.nan, clip)  # far from the middle
        for name, samples, rate, subtype in (
            ("mono", clip[:, :1], 48_000, "PCM_16"), ("slow", clip, 8000, "PCM_U8"), ("fast", clip, 96_000, "PCM_32"),
            ("dc", 0 * clip + 0.2, 48_000, "FLOAT"), ("nan", broken, 48_000, "FLOAT"), ("one", clip[:1], 48_000, None),
            ("pcm", 32_768 * clip, 48_000, "FLOAT"), ("six", np.repeat(clip, 3, 1), 48_000, None),
            ("none", clip[:0], 48_000, None),
        ):  # fmt: skip
            soundfile.write(tmp_path / f"{name}.wav", samples, rate, subtype)
        clips, skipped = clips_of_recordings(tmp_path, 20, 1.0)
        assert {clip.name.split("-")[-1] for clip in clips} == {"mono", "slow", "fast", "dc"}
        assert all(clip.read(1.0).shape == (2, 48_000) for clip in clips)
        for name, words in (("nan", "NaN"), ("one", "0.0 s"), ("pcm", "scale it"), ("six", "6 channels"),
                            ("none", "no samples")):  # fmt: skip
            assert any(f"{name}.wav" in line and words in line for line in skipped), name

    def test_the_excerpt_is_the_middle(self, recordings):
        from rtjazz_hf.audio import read_audio

        clip = clips_of_recordings(recordings, 1, 2.0)[0][0]
        assert np.array_equal(clip.read(2.0), read_audio(recordings / "alpha" / "one.flac", 0.5, 2.0))

    def test_a_list_says_what_is_held_out(self, recordings, tmp_path):
        shutil.copytree(recordings, tmp_path, dirs_exist_ok=True)
        said = {"package": "a", "licence": "CC0", "duration": 3.0, "title": "", "author": ""}
        rows = [
            {"file": "alpha/one.flac", "split": "train", **said},
            {"file": "alpha/two.flac", "split": "test", **said},
            {"file": "alpha/gone.flac", "split": "test", **said},
        ]
        (tmp_path / "real.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
        clips, _ = clips_of_recordings(tmp_path, 10, 2.0)
        assert [clip.name for clip in clips] == ["a-two"]
        (tmp_path / "real.jsonl").write_text('{"file": "alpha/one.flac"}\n')
        with pytest.raises(ValueError, match="line 1"):
            clips_of_recordings(tmp_path, 10, 2.0)

    def test_no_usable_recording_is_an_error(self, recordings):
        with pytest.raises(ValueError, match="30 s or more"):
            clips_of_recordings(recordings, 10, 30.0)


def test_verdicts_are_met_where_the_codec_is_better_than_opus():
    """With figures made up: a codec that reaches all that is asked."""

    def row(kind, setting, mel, snr, bitrate):
        return {"kind": kind, "setting": setting, "mel_distance": mel, "snr": snr, "si_sdr": snr, "bitrate": bitrate,
                "pitch_correlation": 0.98, "semitone_correlation": 0.99, "snr_bound": snr + 5,
                "zimtohrli": 4.5, "visqol": 4.4, "valley_loss": 0.5}  # fmt: skip

    rows = [row("latents", None, 1.0, 41.0, float("nan"))]
    rows += [row("codes", levels, 2.0, float(levels), 825.0 * levels) for levels in (1, 2, 4)]
    rows += [row("opus", rate, 2.5, rate / 2.0, 1000.0 * rate) for rate in (8, 16, 24, 32, 128)]
    books = {"usage": [0.99] * 4, "perplexity": [1500.0] * 4, "entries": 2048, "frames": 50_000}
    data = {"clips": ["x"], "rows": rows, "codebooks": books, "bound": {"rate_of_40_db": [1.5e5, 2.0e5]}}
    errors = dict.fromkeys((*MOVES, *(f"partials_{note}" for note in NOTES)), 2.0)
    kinds = (("latents", None), ("codes", 4))
    tones = [{"name": kind, "kind": kind, "setting": setting, **errors} for kind, setting in kinds]
    heard = [
        {"name": name, "kind": kind, "bass_f1": f1, "lead_f1": f1}
        for name, kind, f1 in (("renders", "render", 0.8), ("4 levels", "codes", 0.75), ("low delay", "low_delay", 0.5))
    ]
    notes = {"takes": 40, "rows": heard}
    times = {"latency_ms": 18.7, "look_ahead_ms": 66.7}
    report = {"sets": {"composed": data, "real": data}, "codebooks": books, "splits": {"decode": 1e-7}, "tuning": tones,
              "notes": notes, "settings": times}  # fmt: skip
    table = verdicts(report)
    assert all(row["ok"] is not False for row in table)
    forty = next(row["measured"] for row in table if "40 dB" in row["what"])
    assert "un-quantised latents: reached (41.0 dB)" in forty
    assert "Opus: reached at 128.0 kbit/s" in forty
    assert "bound: 175 kbit/s (150 to 200 clip by clip)" in forty
    data["rows"][3]["snr"] = 1.5  # four levels now worse than two
    tones[0]["glide"] = 19.0
    heard[1]["bass_f1"] = heard[1]["lead_f1"] = 0.7
    assert next(row["measured"] for row in table if "latency" in row["what"]) == "18.7 ms; 85.4 ms"
    report |= {"sets": {"composed": data}, "splits": {"decode": 1e-3}}
    table = verdicts(report)
    missed = [row["what"] for row in table if row["ok"] is False]
    decoding = "decode in random splits versus whole, float32"
    bass = "4 levels: bass notes heard in 40 takes, F1 as a share of the renders'"
    assert missed == ["latents: glide, median error", bass, "composed, SNR in dB by levels", decoding]
