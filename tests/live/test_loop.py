"""Loops: exact to the sample, no click where they start again, the chart of the bars asked for."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch

from rtjazz_hf import LeadSheet, cli
from rtjazz_hf.band.band_leader import write_lead_sheet
from rtjazz_hf.evaluation.measures.metrics import join_jumps
from rtjazz_hf.live.loops import loop_samples, loop_sheet, play_loop

CHART = "Dm7 | G7 | Cmaj7 | %"


class TestSheet:
    def test_a_short_chart_is_gone_round(self):
        sheet = loop_sheet(LeadSheet.from_chart(CHART, tempo=132), 6)
        assert sheet.num_bars == 6 and sheet.loops
        assert [span.chord.symbol for span in sheet.spans][-2:] == ["Dm7", "G7"]
        assert sheet.sections[-1].end_beat == 24

    def test_a_long_tune_is_cut(self):
        tune = write_lead_sheet("medium swing quartet", tempo=120)
        sheet = loop_sheet(tune, 8)
        assert tune.num_bars > 8 == sheet.num_bars
        for seconds in (0.0, 3.3, 15.9):
            assert sheet.position(seconds).chord == tune.position(seconds).chord
        assert sheet.position(16.1).chord == tune.position(0.1).chord  # and from the top

    @pytest.mark.parametrize("bars", [0, -1, 257, 2.5, True])
    def test_wrong_bars(self, bars):
        with pytest.raises(ValueError, match="choose a whole number from 1 to 256"):
            loop_sheet(LeadSheet.from_chart(CHART), bars)

    def test_too_long(self):
        with pytest.raises(ValueError, match=r"256 bars at 40 BPM last 1536\.0 s"):
            loop_sheet(LeadSheet.from_chart(CHART, tempo=40), 256)


class TestLoop:
    @pytest.mark.parametrize(
        ("chart", "tempo", "bars"), [(CHART, 240, 4), (CHART, 173.3, 1), ("3/4 Am7 | D7", 301, 3)]
    )
    def test_exact_and_without_a_click(self, tiny_pipeline, chart, tempo, bars):
        sheet = LeadSheet.from_chart(chart, tempo=tempo)
        output = play_loop(
            tiny_pipeline, "swing", sheet, bars, num_inference_steps=1,
            generator=torch.Generator().manual_seed(3),
        )  # fmt: skip
        loop = output.audios[0]
        exact = bars * sheet.beats_per_bar * 60 / tempo * 48_000
        assert loop.shape == (2, round(exact)) and loop.dtype == np.float32
        twice = np.concatenate([loop, loop], axis=1)
        assert join_jumps(twice, [loop.shape[1]])["ratio"] <= 1
        assert output.lead_sheets[0].num_bars == bars and output.lead_sheets[0].beat_offset == 0

    def test_goes_on_where_it_starts_again(self, tiny_pipeline):
        """The sound over the seam is the sound that was played: the lead-in's end, and what followed it."""
        sheet = LeadSheet.from_chart(CHART, tempo=240)
        options = {"num_inference_steps": 1}
        loop = play_loop(
            tiny_pipeline, "swing", sheet, 4, generator=torch.Generator().manual_seed(3), **options
        ).audios[0]
        lead_in = loop_samples(sheet, 2)
        played = tiny_pipeline(
            "swing", duration=3.0, lead_sheet=_from_bar_three(sheet), generator=torch.Generator().manual_seed(3),
            **options,
        ).audios[0]  # fmt: skip
        np.testing.assert_allclose(loop[:, :4_000], played[:, lead_in : lead_in + 4_000], atol=1e-5)
        np.testing.assert_allclose(loop[:, -10:], played[:, lead_in - 10 : lead_in], atol=1e-3)


def _from_bar_three(sheet):
    import dataclasses

    return dataclasses.replace(sheet, beat_offset=8.0)


class TestCommand:
    @pytest.fixture
    def generate(self, tiny_folder, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)

        def run(*arguments):
            base = ["generate", "swing", "--model", str(tiny_folder), "--device", "cpu", "-o", "a.wav"]
            return cli.main([*base, *arguments]), *capsys.readouterr()

        return run

    @pytest.mark.parametrize("loop", [[], ["--loop"]])
    def test_bars_to_the_sample(self, generate, loop):
        code, out, _ = generate(
            "--bars", "8", "--tempo", "317", "--steps", "1", "--json", "--seed", "1", *loop
        )
        assert code == 0 and json.loads(out)["bars"] == 8
        assert soundfile.info("a.wav").frames == round(8 * 4 * 60 / 317 * 48_000)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--loop"], "--loop needs --bars"),
            (["--bars", "0"], "bars 0"),
            (["--bars", "8", "--duration", "5"], "give one of them"),
            (["--bars", "8", "--loop", "--codes", "a.rtj"], "--loop and --codes"),
            (["--bars", "256", "--tempo", "40"], "1536.0 s"),
        ],
    )
    def test_refusals(self, generate, tmp_path, arguments, words):
        code, _, err = generate(*arguments)
        assert code == 2 and words in err and err.count("\n") == 1 and not list(tmp_path.iterdir())
