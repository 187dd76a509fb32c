"""Live: the stream equals the clip, the beat goes on through every change, nothing wrong stops the music."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch

from rtjazz_hf import Chord, LeadSheet, LiveBlock
from rtjazz_hf.live.plan import continue_in_phase

CHART = "Dm7 | G7 | Cmaj7 | %"
BLOCK = 36 / 75  # seconds


def take(session, count: int) -> list[LiveBlock]:
    return [next(session) for _ in range(count)]


class TestStream:
    @pytest.mark.parametrize("block_frames", [12, 36])
    def test_equals_the_clip_of_the_same_seed(self, tiny_pipeline, block_frames):
        sheet = LeadSheet.from_chart(CHART, tempo=140)
        options = {"lead_sheet": sheet, "block_frames": block_frames}
        with tiny_pipeline.live("swing", seed=7, **options) as session:
            live = np.concatenate([block.audio for block in take(session, 3)], axis=-1)
        clip = tiny_pipeline(
            "swing",
            duration=3 * block_frames / 75,
            generator=torch.Generator().manual_seed(7),
            output_type="pt",
            **options,
        )
        np.testing.assert_allclose(live, clip.audios[0].numpy(), rtol=0, atol=1e-4)

    def test_blocks_tell_where_they_are(self, tiny_pipeline):
        with tiny_pipeline.live("swing", chords=CHART, tempo=125, seed=1) as session:
            blocks = take(session, 5)
        assert [block.start for block in blocks] == pytest.approx([n * BLOCK for n in range(5)])
        first = blocks[0]
        assert first.audio.shape == (2, 23_040) and first.audio.dtype == np.float32
        assert first.latents.shape == (64, 36) and first.duration == pytest.approx(BLOCK)
        assert (first.bar, first.beat, first.chord, first.tempo) == (1, 1.0, Chord.parse("Dm7"), 125)
        assert [(block.bar, block.beat) for block in blocks] == [
            (1, 1.0), (1, 2.0), (1, 3.0), (1, 4.0), (2, 1.0)]  # fmt: skip
        assert blocks[4].chord == Chord.parse("G7")

    def test_sessions_do_not_meet(self, tiny_pipeline):
        alone = take(tiny_pipeline.live("swing", tempo=120, seed=1), 2)
        one, two = (tiny_pipeline.live("swing", tempo=120, seed=seed) for seed in (1, 2))
        mixed = [(next(one), next(two)) for _ in range(2)]
        for block, (same, other) in zip(alone, mixed):
            assert np.array_equal(block.audio, same.audio)
            assert not np.allclose(block.audio, other.audio)

    def test_ends_when_closed(self, tiny_pipeline):
        with tiny_pipeline.live("swing") as session:
            next(session)
        assert list(session) == []

    def test_cache_keeps_to_its_window(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", block_frames=6, window_frames=14)
        take(session, 5)
        assert session.stream.cache.num_frames == 12

    def test_stats(self, tiny_pipeline):
        session = tiny_pipeline.live("swing")
        assert session.stats().blocks == 0 and math.isnan(session.stats().p50)
        take(session, 4)
        stats = session.stats()
        assert stats.blocks == 4 and stats.audio_seconds == pytest.approx(4 * BLOCK)
        assert 0 < stats.p50 <= stats.p95 <= stats.p99
        assert stats.real_time_factor > 0 and 0 <= stats.under_runs <= 4
        assert set(stats.to_dict()) >= {"p50", "p95", "p99", "real_time_factor", "under_runs"}

    def test_under_runs_are_counted(self, tiny_pipeline, monkeypatch):
        clock = iter(range(100))  # every look at the clock is a second later
        session = tiny_pipeline.live("swing")
        monkeypatch.setattr("rtjazz_hf.live.session.time.perf_counter", lambda: float(next(clock)))
        take(session, 3)
        assert session.stats().under_runs == 3
        assert session.stats().real_time_factor == pytest.approx(1 / BLOCK)


class TestUpdate:
    def test_takes_effect_at_the_next_block(self, tiny_pipeline):
        plain = take(tiny_pipeline.live("swing", chords=CHART, tempo=120, seed=1), 3)
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120, seed=1)
        first = next(session)
        session.update(prompt={"bossa nova with nylon guitar": 0.4, "swing": 0.6}, guidance_scale=2.5)
        changed = take(session, 2)
        assert np.array_equal(plain[0].audio, first.audio)
        assert not np.allclose(plain[1].latents, changed[0].latents)

    def test_tempo_keeps_the_place(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=125)
        take(session, 3)  # three beats of 0.48 s
        before = session.lead_sheet
        session.update(tempo=200)
        after = session.lead_sheet
        assert after.tempo == 200 and after.spans == before.spans
        assert after.beat_at(session.position) == pytest.approx(before.beat_at(session.position))
        block = next(session)
        assert (block.bar, block.beat) == (1, pytest.approx(4.0)) and block.tempo == 200

    def test_phase_is_kept_when_a_block_is_in_the_making(self, tiny_pipeline, monkeypatch):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120)
        before, denoise = session.lead_sheet, session.stream.denoise

        def denoise_and_update(*args, **kwargs):
            session.update(tempo=240)  # as another thread would
            return denoise(*args, **kwargs)

        monkeypatch.setattr(session.stream, "denoise", denoise_and_update)
        next(session)
        assert session.lead_sheet.beat_at(BLOCK) == pytest.approx(before.beat_at(BLOCK))

    def test_new_chart_starts_from_its_top_in_phase(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=125)
        take(session, 6)
        session.update(chords="Ebm7 | Ab7 | Db6 | %")
        block = next(session)
        assert block.bar == 1 and block.beat == pytest.approx(3.0)
        assert block.chord == Chord.parse("Ebm7")

    @pytest.mark.parametrize("seconds", [0.0, 1.37, 3600.0])
    def test_phase_is_kept_at_any_time(self, seconds):
        four, three = (LeadSheet.from_chart(text, tempo=133) for text in ("Dm7 | G7", "3/4 Am7 | D7"))
        for new in (four.with_tempo(171), three, LeadSheet.from_chart("C6", tempo=60)):
            beat = four.beat_at(seconds)
            moved = continue_in_phase(new, four, seconds)
            assert (moved.beat_at(seconds) - beat) % 1 == pytest.approx(0, abs=1e-6) or (
                moved.beat_at(seconds) - beat
            ) % 1 == pytest.approx(1, abs=1e-6)
            assert moved.beat_at(seconds) >= 0

    def test_what_was_fixed_stays(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=125, instruments=["piano", "bass"])
        session.update(prompt="fast bebop sax quartet")
        sheet = session.lead_sheet
        assert sheet.tempo == 125 and sheet.spans[0].chord == Chord.parse("Dm7")
        assert set(sheet.instruments) == {"piano", "bass"} and sheet.genre == "bebop"

    def test_a_sheet_is_followed_until_another_wish(self, tiny_pipeline):
        sheet = LeadSheet.from_chart(CHART, tempo=125, instruments=["organ", "drums"])
        session = tiny_pipeline.live("swing", lead_sheet=sheet)
        session.update(prompt="bossa nova")
        assert session.lead_sheet.spans == sheet.spans and session.lead_sheet.tempo == 125
        session.update(tempo=150)
        assert session.lead_sheet.spans == sheet.spans and session.lead_sheet.tempo == 150
        session.update(chords="C6 | F7")
        assert session.lead_sheet.spans[0].chord == Chord.parse("C6") and session.lead_sheet.tempo == 150
        session.update(lead_sheet=sheet)
        assert session.lead_sheet.spans == sheet.spans and session.lead_sheet.tempo == 125

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"volume": 11}, "cannot update volume; choose from prompt"),
            ({"prompt": ""}, "prompt is empty"),
            ({"prompt": ["a", "b"]}, "one prompt"),
            ({"chords": "Hm7"}, "Hm7"),
            ({"tempo": 10}, "tempo 10"),
            ({"tempo": None}, "tempo is None"),
            ({"mood": "grumpy"}, "grumpy"),
            ({"instruments": ["kazoo"]}, "kazoo"),
            ({"guidance_scale": float("nan")}, "guidance_scale nan"),
            ({"num_inference_steps": 0}, "num_inference_steps 0"),
            ({"lead_sheet": "Dm7"}, "lead_sheet"),
            ({"tempo": 150, "mood": "grumpy"}, "grumpy"),
        ],
    )
    def test_a_wrong_one_leaves_the_music_playing(self, tiny_pipeline, changes, words):
        options = {"chords": CHART, "tempo": 120, "seed": 1, "block_frames": 6}
        plain = take(tiny_pipeline.live("swing", **options), 2)
        session = tiny_pipeline.live("swing", **options)
        first = next(session)
        with pytest.raises(ValueError, match=words):
            session.update(**changes)
        for want, got in zip(plain, (first, next(session))):
            assert np.array_equal(want.audio, got.audio) and want.tempo == got.tempo

    def test_from_another_thread(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120, block_frames=6)
        threads = [threading.Thread(target=session.update, kwargs={"tempo": 120 + n}) for n in range(8)]
        for thread in threads:
            thread.start()
        take(session, 3)
        for thread in threads:
            thread.join()
        assert 120 <= session.lead_sheet.tempo <= 127
        assert session.lead_sheet.beat_at(session.position) >= 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"prompt": ["swing", "bossa"]}, "one prompt"),
            ({"prompt": " "}, "prompt is empty"),
            ({"block_frames": 5}, "block_frames 5"),
            ({"window_frames": -1}, "window_frames -1"),
            ({"seed": -1}, "seed -1"),
            ({"seed": 1.5}, "seed 1.5"),
            ({"tempo": 500}, "tempo 500"),
        ],
    )
    def test_is_named(self, tiny_pipeline, options, words):
        with pytest.raises(ValueError, match=words):
            tiny_pipeline.live(**{"prompt": "swing", **options})
