"""Model checks and the whole report, on a tiny pipeline of the real classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from played import play_chords

from rtjazz_hf.corpus.renderer import RendererUnavailable
from rtjazz_hf.evaluation.measures import model_checks
from rtjazz_hf.evaluation.parts import PARTS, grooves, hour
from rtjazz_hf.evaluation.report import evaluate
from rtjazz_hf.evaluation.takes import (
    HeldOutTake,
    choose_takes,
    composed_performance,
    load_held_out,
    looping,
    sound_fonts,
    steady,
)
from rtjazz_hf.music import LEAD_SHEET_DIM, LeadSheet


@pytest.fixture(scope="module")
def takes() -> list[HeldOutTake]:
    found = []
    for name, chart, tempo, genre in (
        ("one", "Dm7 | G7 | Cmaj7 | A7", 120, "swing"),
        ("two", "3/4 Fm7 | Bb7 | Ebmaj7 | C7", 90, "waltz"),
        ("three", "Am7 | D7", 180, "bebop"),
    ):
        sheet = LeadSheet.from_chart(chart, tempo=tempo, genre=genre)
        rng = np.random.default_rng(len(found))
        audio = play_chords(sheet, 6.0) + 0.02 * rng.standard_normal((2, 6 * 48_000)).astype(np.float32)
        found.append(HeldOutTake(name, sheet, f"{genre} piano", 6.0, samples=audio))
    return found


class TestModelChecks:
    def test_gap_is_zero_for_a_flow_that_cannot_listen(self, tiny_pipeline):
        transformer = tiny_pipeline.transformer
        states = [torch.randn(64, 200, generator=torch.Generator().manual_seed(i)) for i in range(2)]
        sheets = [LeadSheet.from_chart("Dm7 | G7", tempo=100), LeadSheet.from_chart("C7", tempo=200)]
        gap = model_checks.validation_gap(transformer, states, sheets, seed=3)
        assert gap["blocks"] == 10
        assert gap["gap"] == pytest.approx(gap["rotated"] - gap["true"])
        assert gap == model_checks.validation_gap(transformer, states, sheets, seed=3)
        assert gap["true"] != gap["none"]  # the lead sheet reaches the flow
        kept = transformer.lead_sheet_embedding
        try:
            transformer.lead_sheet_embedding = _Deaf(kept, transformer.config.hidden_size)
            deaf = model_checks.validation_gap(transformer, states, sheets, seed=3)
        finally:
            transformer.lead_sheet_embedding = kept
        assert deaf["true"] == deaf["rotated"] == deaf["none"]

    def test_weights_of_zero_leave_channels_out_of_the_gap(self, tiny_pipeline):
        generator = torch.Generator().manual_seed(0)
        states, sheets = (
            [torch.randn(64, 72, generator=generator)],
            [LeadSheet.from_chart("Dm7 | G7", tempo=100)],
        )

        def true(weights=None) -> float:
            gap = model_checks.validation_gap(
                tiny_pipeline.transformer, states, sheets, channel_weights=weights
            )
            return gap["true"]

        first = torch.arange(64) < 20
        assert true(torch.ones(64)) == pytest.approx(true())
        assert (20 * true(first.float()) + 44 * true((~first).float())) / 64 == pytest.approx(true())

    def test_states_shorter_than_a_block_are_refused(self, tiny_pipeline):
        with pytest.raises(ValueError, match="one block of 36"):
            model_checks.validation_gap(
                tiny_pipeline.transformer, [torch.zeros(64, 20)], [LeadSheet.from_chart("C")]
            )

    def test_splits_and_cache_agree(self, tiny_pipeline):
        latents = torch.randn(1, 64, 60, generator=torch.Generator().manual_seed(0))
        assert model_checks.decode_split_difference(tiny_pipeline.codec, latents) <= 1e-4
        assert (
            model_checks.cache_difference(tiny_pipeline, LeadSheet.from_chart("Dm7 | G7"), num_blocks=3)
            <= 1e-4
        )

    def test_round_trip_keeps_the_length(self, tiny_pipeline, takes):
        back, latents = model_checks.round_trip(tiny_pipeline.codec, takes[0].audio(1.003))
        assert back.shape == (2, round(1.003 * 48_000))
        assert latents.shape[1] == 64
        scores = model_checks.codec_scores(tiny_pipeline.codec, [takes[0].audio(1.0)], 4)
        assert scores["bits_per_second"] > 0
        assert len(scores["codebook_usage"]) == 4

    def test_speed(self, tiny_pipeline):
        result = model_checks.real_time_factor(tiny_pipeline, 1.0, warm_up=1)
        assert 0 < result["real_time_factor"] < 50
        assert result["torch_threads"] == torch.get_num_threads()


class _Deaf(torch.nn.Module):
    """Stands in for the lead sheet embedding and hears nothing."""

    def __init__(self, embedding: torch.nn.Module, hidden_size: int):
        super().__init__()
        self.hidden_size = hidden_size

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.new_zeros(*features.shape[:-1], self.hidden_size)


class TestTakes:
    def test_genres_come_in_turn_and_fit_ones_first(self, takes):
        slow = HeldOutTake(
            "slow", LeadSheet.from_chart("C", tempo=50, genre="swing"), "x", 6.0, samples=takes[0].samples
        )
        chosen = choose_takes([slow, *takes], 4, 5.0)
        assert [take.name for take in chosen] == ["one", "two", "three", "slow"]
        assert len(choose_takes(takes, 2, 5.0)) == 2

    def test_none_held_out(self, tmp_path):
        with pytest.raises(ValueError, match="takes is empty"):
            load_held_out([], 3)

    def test_sheets_for_longer_clips(self, takes):
        sheet = steady(takes[0].lead_sheet)
        assert sheet.loops and len(sheet.sections) == 1 and sheet.beat_offset == 0.0
        assert sheet.spans == takes[0].lead_sheet.spans
        assert looping(takes[0].lead_sheet).features(0, 3000).shape == (3000, LEAD_SHEET_DIM)


ALONE = tuple(part for part in PARTS if part not in ("bends", "grooves", "hour"))  # which play music of their own
SHORT = {
    "num_takes": 3, "duration": 4.0, "long_duration": 2.0, "speed_duration": 0.5, "step_takes": 1, "live_sessions": 1,
    "live_seconds": 1.0, "listening_takes": 2, "listening_seconds": 1.0, "shuffled_takes": 1, "mute_takes": 1,
    "mute_seconds": 1.0, "seed_takes": 1, "seeds": 2, "train_takes": 2,
}  # fmt: skip


class TestEvaluate:
    @pytest.fixture(scope="class")
    def whole(self, tiny_pipeline, takes, tmp_path_factory):
        """Every part, into one folder: the folder, and the report."""
        for name in ("librosa", "matplotlib", "pyloudnorm"):
            pytest.importorskip(name)
        out = tmp_path_factory.mktemp("whole") / "out"
        copy = out.with_name("copy.json")
        return out, evaluate(tiny_pipeline, takes, out, only=ALONE, json_path=copy, progress=False, **SHORT)

    def test_files(self, whole):
        out, report = whole
        saved = json.loads((out / "report.json").read_text())
        assert saved == report == json.loads(out.with_name("copy.json").read_text())
        assert set(ALONE) <= set(report)
        page = (out / "report.md").read_text()
        assert all(row["what"] in page for row in report["table"])
        for name in report["pictures"]:
            assert (out / name).stat().st_size > 5000
            assert f"({name})" in page
        assert {"drift.png", "live.png", "summary.png"} < set(report["pictures"])
        assert (out / "listening" / "page" / "index.html").is_file()
        assert len(list((out / "listening" / "page" / "clips").glob("*.flac"))) == 8

    def test_rows(self, whole):
        _, report = whole
        rows = {row["what"]: row for row in report["table"]}
        assert len(rows) == len(report["table"])
        assert list(dict.fromkeys(row["part"] for row in report["table"])) == [
            part for part in ALONE if part != "listening"
        ]
        assert rows["same seed twice"]["ok"] is True
        assert rows["batch of 4 versus four singles"]["ok"] is True
        assert rows["cached versus uncached"]["ok"] is True

    def test_charts(self, whole):
        _, report = whole
        charts = report["charts"]["charts"]
        assert [chart["take"] for chart in charts] == ["one", "two", "three"]
        for chart in charts:
            assert chart["chord_render"] == 1.0
            assert chart["chord_rates"].keys() == chart["beat_fs"].keys()
            assert set(chart["chord_rates"]) == {
                "generated",
                "held_out",
                "reconstruction",
                "noise",
                "shuffled",
            }
        references = report["references"]
        assert references["chord obedience"]["held_out"] == 1.0
        assert references["octave bands, error dB"]["held_out"] == 0.0
        assert references["chord obedience"]["noise"] < 0.5
        assert report["charts"]["summary"]["tempo_error_median"] is not None

    def test_drift(self, whole):
        _, report = whole
        drift = report["drift"]
        assert drift["early"] == [0.0, 0.5] and drift["late"] == [1.0, 2.0]
        assert drift["generated"]["clips"] == 3 and len(drift["clips"][0]["levels"]) == 4

    def test_what_cannot_be_measured_is_said(self, whole):
        """Three takes are no distribution, this model has no instrument probe, and its training takes are not known."""
        _, report = whole
        told = [row for row in report["table"] if row["measured"].startswith("not measured")]
        assert {row["part"] for row in told} >= {"similarity", "instruments", "diversity"}
        assert all(row["ok"] is None for row in told)
        assert report["references"]["text-audio score"].keys() >= {
            "generated",
            "held_out",
            "noise",
            "shuffled",
        }

    def test_live(self, whole):
        _, report = whole
        live = report["live"]
        assert all(one["begins"] == [0] for one in live["heard"].values())
        assert live["joins"]["clips"] == 5 and live["control"]["block_frames"] == 36

    def test_steps(self, whole):
        _, report = whole
        steps = report["steps"]["steps"]
        assert list(steps) == ["16", "8", "4", "2", "1"] and steps["16"]["misses"] == []
        assert report["steps"]["fastest"] in (16, 8, 4, 2, 1)

    def test_no_clip_is_played_twice(self, whole, tiny_pipeline, takes, monkeypatch):
        """Parts called by themselves find the clips, and leave what the others found in the report."""
        out, report = whole
        monkeypatch.setattr(
            type(tiny_pipeline), "__call__", lambda *_, **__: pytest.fail("a clip was played")
        )
        again = evaluate(tiny_pipeline, takes, out, only=["drift", "steps"], progress=False, **SHORT)
        assert again["drift"]["generated"] == report["drift"]["generated"]
        assert again["steps"]["steps"] == report["steps"]["steps"]
        assert again["charts"] == report["charts"]
        assert [row["what"] for row in again["table"]] == [row["what"] for row in report["table"]]
        assert again["pictures"] == report["pictures"] and again["references"] == report["references"]

    def test_other_settings_are_another_report(self, whole, tiny_pipeline, takes, capsys):
        out, _ = whole
        report = evaluate(tiny_pipeline, takes, out, only=["speed"], **{**SHORT, "steps": 1})
        assert "charts" not in report and {row["part"] for row in report["table"]} == {"speed"}
        captured = capsys.readouterr()
        assert captured.out == ""  # stdout is for programs
        assert "real-time factor" in captured.err

    def test_what_a_part_found_is_not_lost_when_the_next_fails(
        self, tiny_pipeline, takes, tmp_path, monkeypatch
    ):
        from rtjazz_hf.evaluation.parts import PART_FUNCTIONS

        def fail(run):
            raise RuntimeError("no more")

        monkeypatch.setitem(PART_FUNCTIONS, "speed", fail)
        with pytest.raises(RuntimeError, match="no more"):
            evaluate(tiny_pipeline, takes, tmp_path, only=["codec", "speed"], progress=False, **SHORT)
        assert len(json.loads((tmp_path / "report.json").read_text())["table"]) == 2

    def test_clips_need_not_be_kept(self, tiny_pipeline, takes, tmp_path):
        pytest.importorskip("librosa")
        pytest.importorskip("matplotlib")
        settings = {**SHORT, "num_takes": 1, "duration": 1.0}
        report = evaluate(
            tiny_pipeline, takes, tmp_path, only="charts", save_audio=False, progress=False, **settings
        )
        assert not (tmp_path / "clips").exists()
        assert "shuffled" not in report["references"]["beat F"]  # one take has no other

    @pytest.mark.parametrize(
        "options, message",
        [
            ({"only": ["melody"]}, "melody"),
            ({"only": []}, "nothing"),
            ({"num_takes": 0}, "num_takes 0"),
            ({"long_duration": 1.0}, r"long_duration 1\.0"),
            ({"live_sessions": 5}, "live_sessions 5"),
        ],
    )
    def test_bad_wishes_are_refused_before_anything_is_written(
        self, tiny_pipeline, takes, tmp_path, options, message
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(tiny_pipeline, takes, tmp_path / "none", **options)
        assert not (tmp_path / "none").exists()

    def test_a_listening_test_is_not_replaced(self, tiny_pipeline, takes, tmp_path):
        (tmp_path / "listening").mkdir()
        (tmp_path / "listening" / "key.json").write_text("{}")
        with pytest.raises(FileExistsError, match="listening"):
            evaluate(tiny_pipeline, takes, tmp_path, only=["listening"])


class TestSimilarity:
    @pytest.fixture(scope="class")
    def report(self, tiny_pipeline, tmp_path_factory):
        """Of a model with an instrument probe, on a corpus with training takes."""
        pytest.importorskip("librosa")
        pytest.importorskip("matplotlib")
        from synthetic_takes import write_takes

        from rtjazz_hf import RealTimeJazzPipeline
        from rtjazz_hf.evaluation.measures.embeddings import TowerEmbedder
        from rtjazz_hf.evaluation.measures.instrument_probe import (
            PROBE_NAME,
            InstrumentProbe,
            tower_signature,
        )
        from rtjazz_hf.evaluation.parts import similarity

        folder = tmp_path_factory.mktemp("similarity")
        corpus = write_takes(folder / "corpus", count=12, seconds=1.2, held_out=10)
        tiny_pipeline.save_pretrained(folder / "model")
        signature = tower_signature(TowerEmbedder(tiny_pipeline.style_encoder))
        weight = np.random.default_rng(0).standard_normal((2, len(signature))).astype(np.float32)
        probe = InstrumentProbe(("piano", "bass"), weight, *np.zeros((2, 2), np.float32), signature)
        probe.save(folder / "model" / "style_encoder" / PROBE_NAME)
        settings = {
            **SHORT,
            "num_takes": 4,
            "duration": 1.0,
            "mute_seconds": 1.0,
            "shuffled_takes": 4,
            "mute_takes": 2,
        }
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(similarity, "_STEM_TAKES", 1)  # each of its players is rendered alone
            return evaluate(
                RealTimeJazzPipeline.from_pretrained(folder / "model"), corpus, folder / "out",
                only=["similarity", "instruments", "diversity"], progress=False, **settings,
            )  # fmt: skip

    def test_everything_is_measured(self, report):
        told = " ".join(
            row["what"] for row in report["table"] if not row["measured"].startswith("not measured")
        )
        for what in ("FAD", "text-audio score", "KL of tag", "bands of the charts", "nearest"):
            assert what in told

    def test_references(self, report):
        references = report["references"]
        fad = references["FAD, of that of two held-out sets"]
        assert fad.keys() == {"generated", "reconstruction", "noise", "shuffled", "held_out_b"}
        assert references["KL of genre to the render, nats"]["held_out"] == 0.0
        assert references["distance to the nearest training window"]["held_out"] > 0
        assert report["diversity"]["neighbours"]["training_takes"] == 2
        assert set(report["instruments"]["judged"]) == {"piano", "bass"}


class TestStepFigures:
    def test_within_five_per_cent(self):
        from rtjazz_hf.evaluation.parts.steps import Figure

        more, less = Figure("a", "a", "", True), Figure("b", "b", "", False, slack=0.25)
        assert more.holds(0.96, 1.0) and more.holds(2.0, 1.0) and not more.holds(0.94, 1.0)
        assert less.holds(1.25, 1.0) and less.holds(0.1, 1.0) and not less.holds(1.35, 1.0)
        assert more.holds(-1.04, -1.0) and not more.holds(-1.06, -1.0)
        assert more.holds(float("nan"), 1.0) and more.holds(0.0, float("nan"))


class TestComposedPerformance:
    def test_goes_round(self, takes):
        from rtjazz_hf.corpus.renderer import RendererUnavailable

        sheet = steady(takes[2].lead_sheet)  # 2 bars
        try:
            played_from, audio = composed_performance(sheet, 5.0)
        except RendererUnavailable as error:
            pytest.skip(str(error))
        assert audio.shape == (2, 5 * 48_000) and np.abs(audio).max() > 0.01
        assert not played_from.loops and played_from.duration >= 5.0
        assert played_from.spans[:2] == sheet.spans == played_from.spans[2:4]
        assert len(played_from.sections) == 1

    def test_a_chart_played_anew_has_other_notes_and_the_same_seed_the_same(self, takes):
        from rtjazz_hf.corpus.renderer import RendererUnavailable
        from rtjazz_hf.evaluation.takes import played_anew

        sheet = steady(takes[2].lead_sheet)
        try:
            one, again, other = (played_anew(sheet, 2.0, seed) for seed in (1, 1, 2))
        except RendererUnavailable as error:
            pytest.skip(str(error))
        assert one.shape == (2, 2 * 48_000) and np.array_equal(one, again)
        assert np.abs(one - other).max() > 0.01


class TestHeldOutTakes:
    def test_composed_here_and_always_the_same(self):
        from rtjazz_hf.corpus.renderer import RendererUnavailable
        from rtjazz_hf.evaluation.takes import held_out_takes

        try:
            (take,) = held_out_takes(1, seed=1, min_seconds=20.0)
        except RendererUnavailable as error:
            pytest.skip(str(error))
        (again,) = held_out_takes(1, seed=1, min_seconds=20.0)
        assert take.lead_sheet == again.lead_sheet and take.caption == again.caption
        np.testing.assert_allclose(take.samples, again.samples, atol=1e-4)
        assert take.seconds >= 20.0
        assert take.audio(2.0).shape == (2, 96_000)
        assert 70 <= take.lead_sheet.tempo <= 220

    def test_records_of_a_corpus(self, takes, tmp_path):
        from types import SimpleNamespace

        from rtjazz_hf.audio import write_audio

        (tmp_path / "000007").mkdir()
        path = write_audio(tmp_path / "000007" / "mix.flac", takes[0].audio())
        record = SimpleNamespace(path=path, lead_sheet=takes[0].lead_sheet, caption="swing")
        (take,) = load_held_out([record], 1)
        assert take.name == "000007" and take.seconds == 6.0
        np.testing.assert_allclose(take.audio(1.0), takes[0].audio(1.0), atol=1e-4)


def test_bends(tiny_pipeline, tmp_path):
    for name in ("librosa", "matplotlib", "pyloudnorm"):
        pytest.importorskip(name)
    report = evaluate(tiny_pipeline, None, tmp_path, only="bends", progress=False)
    assert "told no notes" in report["table"][0]["measured"]


def test_an_hour_in_small(tiny_pipeline, tmp_path, monkeypatch):
    for name in ("librosa", "matplotlib", "pyloudnorm", "basic_pitch"):
        pytest.importorskip(name)
    monkeypatch.setattr(hour, "EVERY", 1.5)
    monkeypatch.setattr(hour, "ROUND", hour.ROUND[:2])
    report = evaluate(tiny_pipeline, None, tmp_path, only="hour", progress=False, hour_seconds=9.0)
    found = report["hour"]
    assert found["minutes"] >= 9 / 60 and found["not_finite"] == 0
    assert set(found["ends"]) == {"first", "last"} and len(report["table"]) == 2


def test_grooves(tiny_pipeline, tmp_path, monkeypatch):
    for name in ("librosa", "matplotlib", "pyloudnorm"):
        pytest.importorskip(name)
    monkeypatch.setattr(grooves, "METRES", (("modal", "5/4"),))
    monkeypatch.setattr(grooves, "GROOVE_GENRES", ())
    sizes = {"groove_takes": 1, "groove_seconds": 4.0}
    report = evaluate(tiny_pipeline, None, tmp_path, only="grooves", progress=False, **sizes)
    try:
        sound_fonts()
    except RendererUnavailable:
        assert "not measured" in report["table"][0]["measured"]
        return
    kinds = report["grooves"]["kinds"]
    assert {name.split(", ")[0] for name in kinds} == {"swing", "modal"}
    assert "swing, 4/4" in kinds and "modal, 5/4" in kinds
    assert all(0 <= scores["beat_f"] <= 1 for scores in kinds.values())
    assert {"chords heard as asked", "beat F"} == {row["what"].split(":")[0] for row in report["table"]}
