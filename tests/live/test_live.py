"""Live: the stream equals the clip, the beat goes on through every change, nothing wrong stops the music."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from rtjazz_hf import Chord, LeadSheet, LiveBlock
from rtjazz_hf.evaluation.measures.metrics import join_jumps
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

    def test_a_small_first_block_grows(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120, seed=3, first_block_frames=6)
        assert session.block_frames == 6
        blocks = take(session, 5)
        assert [block.latents.shape[-1] for block in blocks] == [6, 12, 24, 36, 36]
        ends = np.cumsum([block.duration for block in blocks])
        assert [block.start for block in blocks[1:]] == pytest.approx(ends[:-1])

    def test_the_first_block_is_never_the_larger_one(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", block_frames=6, first_block_frames=48)
        assert [block.latents.shape[-1] for block in take(session, 2)] == [6, 6]

    @pytest.mark.parametrize("block_frames", [6, 36])
    def test_a_worker_thread_changes_nothing(self, tiny_pipeline, block_frames):
        runs = []
        for overlap in (False, True):
            options = {"seed": 5, "tempo": 120, "block_frames": block_frames, "overlap": overlap}
            with tiny_pipeline.live("swing", **options) as session:
                blocks = take(session, 2)
                session.update(prompt="bossa nova", block_frames=12)
                runs.append(blocks + take(session, 2))
        for plain, overlapped in zip(*runs):
            assert np.allclose(plain.audio, overlapped.audio, atol=1e-5)

    def test_starts_at_a_beat(self, tiny_pipeline):
        block = next(tiny_pipeline.live("swing", chords=CHART, tempo=120, start_beat=6.5))
        assert (block.bar, block.beat, block.chord) == (2, pytest.approx(3.5), Chord.parse("G7"))

    def test_a_failed_block_can_be_asked_for_again(self, tiny_pipeline, monkeypatch):
        options = {"chords": CHART, "tempo": 120, "seed": 1, "block_frames": 6, "overlap": False}
        plain = take(tiny_pipeline.live("swing", **options), 3)
        session = tiny_pipeline.live("swing", **options)
        blocks = [next(session)]

        def fails(*args, **kwargs):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(session.stream, "decode", fails)
            with pytest.raises(KeyboardInterrupt):
                next(session)
        blocks += take(session, 2)
        for want, got in zip(plain, blocks):
            assert np.array_equal(want.audio, got.audio)


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
        session.update(chords="Ebm7 | Ab7 | Db6 | %", at="now")
        block = next(session)
        assert (block.bar, block.chart_bar) == (2, 1) and block.beat == pytest.approx(3.0)
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
            ({"chords": "Dm7:2"}, "fill 4 beats"),
            ({"block_frames": 7}, "block_frames 7: choose from 6, 12"),
            ({"seed": "x"}, "seed 'x'"),
            ({"seed": 5, "block_frames": 0}, "block_frames 0"),
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

    def test_a_seed_changes_the_noise_from_the_next_block_on(self, tiny_pipeline):
        options = {"chords": CHART, "tempo": 120, "block_frames": 12}
        plain = take(tiny_pipeline.live("swing", seed=1, **options), 4)
        session = tiny_pipeline.live("swing", seed=1, **options)
        sheet, blocks = session.lead_sheet, take(session, 2)
        session.update(seed=2)
        blocks += take(session, 1)
        assert session.seed == 2 and session.lead_sheet is sheet
        assert np.array_equal(blocks[1].audio, plain[1].audio)
        assert not np.allclose(blocks[2].latents, plain[2].latents)
        again = tiny_pipeline.live("swing", seed=1, **options)
        take(again, 2)
        again.update(seed=2)
        assert np.array_equal(next(again).audio, blocks[2].audio)
        again.update(seed=2)  # from the start of its noise once more
        session.update(guidance_scale=1.25)
        assert not np.allclose(next(again).latents, next(session).latents)

    def test_block_size_changes_at_a_boundary(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120)
        blocks = take(session, 1)
        for frames in (6, 48, 12):
            session.update(block_frames=frames)
            blocks += take(session, 1)
        assert [block.latents.shape[-1] for block in blocks] == [36, 6, 48, 12]
        assert session.position == pytest.approx(102 / 75)
        assert session.stats().audio_seconds == pytest.approx(102 / 75)

    @pytest.mark.parametrize(("before", "after"), [(60, 240), (320, 80)])
    def test_a_tempo_four_times_as_fast_or_slow(self, tiny_pipeline, before, after):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=before, block_frames=12)
        take(session, 2)
        beat = session.lead_sheet.beat_at(session.position)
        session.update(tempo=after)
        assert session.lead_sheet.beat_at(session.position) == pytest.approx(beat)
        assert np.isfinite(next(session).audio).all()

    def test_changes_make_no_click(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", chords=CHART, tempo=120, seed=1)
        pieces = [block.audio for block in take(session, 2)]
        changes = [{"prompt": "bossa nova with nylon guitar"}, {"tempo": 240}, {"chords": "Ebm7 | Ab7"},
                   {"seed": 9}, {"block_frames": 12}, {"guidance_scale": 3.0}]  # fmt: skip
        boundaries = []
        for change in changes:
            session.update(**change)
            boundaries.append(sum(piece.shape[1] for piece in pieces))
            pieces += [block.audio for block in take(session, 2)]
        assert join_jumps(np.concatenate(pieces, axis=1), boundaries)["ratio"] <= 1

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


class TestThreads:
    def test_a_second_listener_is_told(self, tiny_pipeline, monkeypatch):
        session = tiny_pipeline.live("swing", block_frames=6)
        denoise, errors = session.stream.denoise, []

        def another_listener():
            try:
                next(session)
            except RuntimeError as error:
                errors.append(str(error))

        def denoise_while_another_asks(*args, **kwargs):
            thread = threading.Thread(target=another_listener)
            thread.start()
            thread.join()
            return denoise(*args, **kwargs)

        monkeypatch.setattr(session.stream, "denoise", denoise_while_another_asks)
        block = next(session)
        assert errors and "another thread is making" in errors[0]
        monkeypatch.undo()
        assert next(session).start == pytest.approx(block.duration)  # it plays on

    def test_one_after_another_is_allowed(self, tiny_pipeline):
        session = tiny_pipeline.live("swing", block_frames=6)
        blocks = []
        for _ in range(3):
            thread = threading.Thread(target=lambda: blocks.append(next(session)))
            thread.start()
            thread.join()
        assert [block.start for block in blocks] == pytest.approx([0, 0.08, 0.16])

    def test_closing_twice_and_from_another_thread(self, tiny_pipeline):
        with tiny_pipeline.live("swing", block_frames=6) as session:
            next(session)
            thread = threading.Thread(target=session.close)
            thread.start()
            thread.join()
            session.close()
        assert session.closed and list(session) == []


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
            ({"chords": "Dm7:0.5"}, "fill 4 beats"),
            ({"first_block_frames": 7}, "first_block_frames 7"),
            ({"start_beat": -1}, "start_beat -1"),
            ({"start_beat": float("nan")}, "start_beat nan"),
            ({"target_latency": 0}, "target_latency 0"),
            ({"target_latency": 0.2, "block_frames": 6}, "give one of them"),
        ],
    )
    def test_is_named(self, tiny_pipeline, options, words):
        with pytest.raises(ValueError, match=words):
            tiny_pipeline.live(**{"prompt": "swing", **options})
