"""Live changes on a tiny pipeline, and the measures on sounds that are known."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from played import RATE, play_chords

from rtjazz_hf.evaluation.measures import live_checks
from rtjazz_hf.evaluation.measures.live_checks import Performance
from rtjazz_hf.music import Chord, LeadSheet

WISHES = {"prompt": "swing", "chords": "Dm7", "tempo": 120.0}


@pytest.fixture(scope="module")
def played(tiny_pipeline):
    options = {"seconds_before": 1.0, "seconds_after": 1.0, "seed": 3}
    changes = {"none": None, "chords": {"chords": "Abm7", "at": "now"}, "tempo": {"tempo": 160.0}}
    return {
        name: live_checks.perform(tiny_pipeline, WISHES, change, **options)
        for name, change in changes.items()
    }


def performance(audio: np.ndarray, block: int = 24_000, change_block: int = 2) -> Performance:
    sheet = LeadSheet.from_chart("C")
    starts = tuple(range(0, audio.shape[1], block))
    return Performance(audio, starts, change_block, sheet, sheet, 0.0, (0.0,) * len(starts))


def test_a_change_begins_with_its_block(played):
    for name in ("chords", "tempo"):
        one = played[name]
        assert one.audio.shape == played["none"].audio.shape
        assert one.change_sample >= RATE and one.starts[one.change_block] == one.change_sample
        difference = live_checks.difference_by_block(one, played["none"])
        assert not difference[: one.change_block].any() and difference[one.change_block] > 0
        np.testing.assert_array_equal(
            one.audio[:, : one.change_sample], played["none"].audio[:, : one.change_sample]
        )
    assert played["tempo"].control_seconds > 0 and np.isnan(played["none"].control_seconds)
    assert played["tempo"].after.tempo == 160.0 and played["tempo"].before.tempo == 120.0
    assert not live_checks.difference_by_block(played["none"], played["none"]).any()


def test_chords_block_by_block():
    old, new = Chord.parse("Dm7"), Chord.parse("Abm7")
    before, after = (play_chords(LeadSheet.from_chart(name, tempo=60), 2.0) for name in ("Dm7", "Abm7"))
    clip = performance(np.concatenate([before, after], axis=1), change_block=4)
    contrast = live_checks.chord_contrast_by_block(clip, old, new)
    assert contrast.shape == (8,)
    assert contrast[:4].max() < -0.2 and contrast[4:].min() > 0.2
    heard = live_checks.response([contrast, contrast], 4)
    assert min(heard["shares"]) > 0.7 and heard["before"] < 0 < heard["after"]


def test_cymbals_block_by_block():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, 144_000)).astype(np.float32)
    noise[:, 48_000:] *= 0.1
    levels = live_checks.high_level_by_block(performance(noise))
    np.testing.assert_allclose(levels[2:] - levels[:2].mean(), -20.0, atol=0.5)
    heard = live_checks.response([levels], 2)
    assert heard["shares"] == pytest.approx([1.0, 1.0], abs=0.05)


def test_response_of_nothing():
    assert np.isnan(live_checks.response([np.zeros(6)], 2)["shares"]).all()


def test_blocks_make_the_clip(played):
    one = played["none"]
    np.testing.assert_array_equal(np.concatenate(one.blocks(), axis=1), one.audio)
    assert len(one.blocks()) == len(one.starts) == len(one.block_seconds)
    assert dataclasses.asdict(one.before)["tempo"] == 120.0
