"""Stems: every player alone, in time with the mix, and together in its balance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import build_tiny_pipeline

from rtjazz_hf.band import Score
from rtjazz_hf.live.stems import at_levels, balanced, band_differences, levels_of, play_stems
from rtjazz_hf.music.score_features import SCORE_DIM

FAST = {"num_inference_steps": 1, "guidance_scale": 1.0}


def noise(seed, samples=96_000):
    return 0.1 * np.random.default_rng(seed).standard_normal((2, samples)).astype(np.float32)


class TestBalanced:
    def test_the_sum_has_the_mixs_bands(self):
        stems = {"bass": np.cumsum(noise(0), axis=1) / 30, "drums": np.diff(noise(1), axis=1, append=0.0)}
        mix = noise(2)
        heard = slice(1, None)  # the lowest octave of so short a clip has too few bins
        assert np.abs(band_differences(stems, mix)[heard]).max() > 6
        assert np.abs(band_differences(balanced(stems, mix), mix)[heard]).max() < 1.5

    def test_nothing_moves_in_time(self):
        click = np.zeros((2, 48_000), np.float32)
        click[:, 20_000] = 1.0
        out = balanced({"drums": click}, 0.2 * np.roll(click, 7, axis=1))["drums"]
        assert np.abs(out[0]).argmax() == 20_000 and out.shape == click.shape
        np.testing.assert_allclose(out[0, 20_000 - 400 : 20_000], out[0, 20_001 : 20_401][::-1], atol=1e-6)

    def test_silence_stays_silent(self):
        silent = np.zeros((2, 48_000), np.float32)
        assert not balanced({"bass": silent, "drums": noise(1, 48_000)}, noise(2, 48_000))["bass"].any()


class TestPlayStems:
    def test_every_player_that_has_notes(self):
        pipe = build_tiny_pipeline(score_dim=SCORE_DIM)
        output = pipe("swing", duration=0.96, chords="Dm7 | G7", tempo=200, instruments=["piano", "bass", "drums"],
                      generator=torch.Generator().manual_seed(3), **FAST)  # fmt: skip
        sheet, score, mix = output.lead_sheets[0], output.scores[0], output.audios[0]
        stems = play_stems(pipe, "swing", sheet, score, mix, lambda: torch.Generator().manual_seed(3), **FAST)
        assert tuple(stems) == score.players
        assert {stem.shape for stem in stems.values()} == {mix.shape}
        assert np.abs(band_differences(stems, mix)[2:9]).max() < 3
        again = play_stems(pipe, "swing", sheet, score, mix, lambda: torch.Generator().manual_seed(3), **FAST)
        assert all(np.array_equal(stems[player], again[player]) for player in stems)
        with pytest.raises(ValueError, match="no notes to make stems of"):
            play_stems(pipe, "swing", sheet, Score(told=()), mix, lambda: torch.Generator(), **FAST)


class TestLevels:
    def test_read(self):
        assert levels_of("bass=-3, Tenor Sax=+2dB") == {"bass": -3.0, "tenor_sax": 2.0}

    @pytest.mark.parametrize("text", ["bass", "bass=loud", "bass=40", "kazoo=-3", "", "bass=nan"])
    def test_what_cannot_be_is_said(self, text):
        with pytest.raises(ValueError, match=r"levels|unknown instrument"):
            levels_of(text)

    def test_players_are_moved_by_their_level_and_nothing_clips(self):
        rng = np.random.default_rng(0)
        stems = {name: 0.1 * rng.standard_normal((2, 4800)).astype(np.float32) for name in ("piano", "bass")}
        mix, turned_down = at_levels(stems, {"bass": -6.0})
        assert turned_down == 0.0
        np.testing.assert_allclose(mix, stems["piano"] + stems["bass"] * 10 ** (-6 / 20), rtol=1e-5, atol=1e-7)
        loud, turned_down = at_levels({name: 10 * stem for name, stem in stems.items()}, {})
        assert np.abs(loud).max() == pytest.approx(1.0) and turned_down > 0
