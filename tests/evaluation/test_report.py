"""Model checks and the whole report, on a tiny pipeline of the real classes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from played import play_chords

from rtjazz_hf.evaluation import model_checks
from rtjazz_hf.evaluation.report import PARTS, evaluate
from rtjazz_hf.evaluation.takes import HeldOutTake, choose_takes, load_held_out, looping, steady
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


class TestEvaluate:
    def test_the_whole_report(self, tiny_pipeline, takes, tmp_path, capsys):
        pytest.importorskip("librosa")
        pytest.importorskip("matplotlib")
        report = evaluate(
            tiny_pipeline, takes, tmp_path / "out", num_takes=3, duration=4.0, long_duration=4.0,
            speed_duration=0.5, json_path=tmp_path / "copy.json",
        )  # fmt: skip
        saved = json.loads((tmp_path / "out" / "report.json").read_text())
        assert saved == report == json.loads((tmp_path / "copy.json").read_text())
        assert set(PARTS) <= set(report)
        rows = {row["what"]: row for row in report["table"]}
        assert len(rows) == len(report["table"]) == 14
        assert rows["same seed twice"]["ok"] is True
        assert rows["batch of 4 versus four singles"]["ok"] is True
        assert rows["cached versus uncached"]["ok"] is True
        charts = report["charts"]["charts"]
        assert [chart["take"] for chart in charts] == ["one", "two", "three"]
        assert all(chart["chord_render"] == 1.0 for chart in charts)
        assert len(list((tmp_path / "out" / "clips").glob("*.flac"))) == 9
        for name in report["pictures"]:
            assert (tmp_path / "out" / name).stat().st_size > 5000
        page = (tmp_path / "out" / "report.md").read_text()
        assert all(what in page for what in rows)
        captured = capsys.readouterr()
        assert captured.out == ""  # stdout is for programs
        assert "chord obedience" in captured.err

    def test_one_part_alone(self, tiny_pipeline, takes, tmp_path):
        report = evaluate(
            tiny_pipeline, takes, tmp_path, num_takes=1, duration=1.0, only=["codec"], progress=False
        )
        assert "flow" not in report
        assert len(report["table"]) == 2
        assert report["codec"]["codes"]["clips"] == 1

    @pytest.mark.parametrize(
        "options, message",
        [({"only": ["melody"]}, "melody"), ({"only": []}, "nothing"), ({"num_takes": 0}, "num_takes 0")],
    )
    def test_bad_wishes_are_refused_before_anything_is_written(
        self, tiny_pipeline, takes, tmp_path, options, message
    ):
        with pytest.raises(ValueError, match=message):
            evaluate(tiny_pipeline, takes, tmp_path / "none", **options)
        assert not (tmp_path / "none").exists()


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
