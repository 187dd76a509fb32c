"""Sessions in one batch play what each plays alone, and come and go as they please."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from tiny_models import build_tiny_pipeline

from rtjazz_hf.live import group as group_module
from rtjazz_hf.runtime.threads import BlockThreads

WISHES = [
    {"prompt": "swing", "tempo": 120, "seed": 1, "chords": "Dm7 | G7", "guidance_scale": 1.5},
    {"prompt": "bossa nova with nylon guitar", "tempo": 180, "seed": 2, "guidance_scale": 3.0},
    {"prompt": "fast bebop sax quartet", "tempo": 90, "seed": 3, "guidance_scale": 1.0},
    {"prompt": {"swing": 0.3, "slow ballad, muted trumpet": 0.7}, "seed": 4, "num_inference_steps": 3},
]
OPTIONS = {"block_frames": 12, "window_frames": 48}


def alone(pipe, wish, count, **options):
    session = pipe.live(**{**OPTIONS, **wish, **options})
    return np.concatenate([next(session).audio for _ in range(count)], axis=1)


def assert_same(got, want):
    np.testing.assert_allclose(np.concatenate(got, axis=1), want, rtol=0, atol=1e-4)


class TestGroup:
    def test_each_plays_what_it_plays_alone(self, tiny_pipeline):
        group = tiny_pipeline.live_group()
        sessions = [group.join(**OPTIONS, **wish) for wish in WISHES]
        heard = {session: [] for session in sessions}
        for _ in range(6):  # beyond the window
            for session, block in group.step().items():
                heard[session].append(block.audio)
        for session, wish in zip(sessions, WISHES):
            assert_same(heard[session], alone(tiny_pipeline, wish, 6))

    def test_sessions_come_and_go(self, tiny_pipeline):
        group = tiny_pipeline.live_group()
        first, second, third = ({**wish, "guidance_scale": 2.0} for wish in WISHES[:3])
        heard: dict = {}

        def step(count):
            for _ in range(count):
                for session, block in group.step().items():
                    heard.setdefault(session, []).append(block.audio)

        one = group.join(**OPTIONS, **first)
        step(3)
        two = group.join(**OPTIONS, **second)
        step(2)
        three = group.join(**{**OPTIONS, **third, "first_block_frames": 6})
        step(3)
        group.leave(two)
        assert group.sessions == [one, three]
        step(1)
        one.close()
        step(1)
        assert group.sessions == [three]
        heard[two] += [next(two).audio for _ in range(2)]  # alone
        group.add(two)
        step(1)
        assert_same(heard[one], alone(tiny_pipeline, first, len(heard[one])))
        assert_same(heard[two], alone(tiny_pipeline, second, len(heard[two])))
        assert_same(heard[three], alone(tiny_pipeline, third, len(heard[three]), first_block_frames=6))
        assert [len(heard[session]) for session in (one, two, three)] == [9, 8, 6]

    def test_batches_stay_together(self, tiny_pipeline):
        group = tiny_pipeline.live_group()
        sessions = [group.join("swing", seed=seed, **OPTIONS) for seed in (1, 2)]
        group.step()
        batch = sessions[0]._rows[0]
        assert batch.batch_size == 2
        group.step()
        assert all(session._rows == (batch, row) for row, session in enumerate(sessions))

    def test_updates_are_each_session_s_own(self, tiny_pipeline):
        group = tiny_pipeline.live_group()
        one, two = (group.join(**OPTIONS, **wish) for wish in WISHES[:2])
        lone = tiny_pipeline.live(**OPTIONS, **WISHES[1])
        got, want = [], []
        for change in ({}, {"seed": 7, "tempo": 200}, {"block_frames": 24}, {"guidance_scale": 1.0}):
            two.update(**change)
            lone.update(**change)
            one.update(prompt="slow ballad")
            blocks = group.step()
            assert set(blocks) == {one, two}
            got.append(blocks[two].audio)
            want.append(next(lone).audio)
        assert_same(got, np.concatenate(want, axis=1))

    def test_only_those_that_are_due(self, tiny_pipeline):
        group = tiny_pipeline.live_group()
        one, two = (group.join("swing", seed=seed, **OPTIONS) for seed in (1, 2))
        assert set(group.step([two])) == {two}
        assert two.seconds_ahead > 0
        assert set(group.step(ahead=two.seconds_ahead / 2)) == {one}
        assert group.step(ahead=0.0) == {}
        assert group.step([]) == {}

    def test_a_failed_batch_costs_nobody_a_block(self, tiny_pipeline, monkeypatch):
        group = tiny_pipeline.live_group()
        one, two = (group.join(**OPTIONS, **wish) for wish in (WISHES[0], WISHES[3]))
        heard = {session: [block.audio] for session, block in group.step().items()}
        with monkeypatch.context() as patch:

            def fails(*args, **kwargs):
                raise MemoryError("out of memory")

            patch.setattr(two.stream, "denoise", fails)
            with pytest.raises(MemoryError):
                group.step()
        for _ in range(2):
            for session, block in group.step().items():
                heard[session].append(block.audio)
        for session, wish in zip((one, two), (WISHES[0], WISHES[3])):
            assert len(heard[session]) == 3
            assert_same(heard[session], alone(tiny_pipeline, wish, 3))

    def test_many_are_made_side_by_side(self, tiny_pipeline, monkeypatch):
        monkeypatch.setattr(tiny_pipeline.models, "threads", BlockThreads(counts=(1, 2)))
        monkeypatch.setattr(group_module, "_ROWS", 4)
        wishes = [{"prompt": "swing", "seed": seed, "tempo": 100 + seed} for seed in range(9)]
        with tiny_pipeline.live_group() as group:
            sessions = [group.join(**OPTIONS, **wish) for wish in wishes]
            heard = {session: [] for session in sessions}

            def step(failing=None):
                with monkeypatch.context() as patch:
                    if failing is not None:

                        def fails(*args, **kwargs):
                            raise MemoryError("out of memory")

                        patch.setattr(failing._rows[0], "denoise", fails)
                        with pytest.raises(MemoryError):
                            group.step()
                        return
                    for session, block in group.step().items():
                        heard[session].append(block.audio)

            step(), step()
            streams = [session._rows[0] for session in sessions]
            assert [streams.count(each) for each in dict.fromkeys(streams)] == [5, 4]
            step(failing=sessions[-1])
            step()  # what the others had made is handed out, and the rest is made
            group.leave(sessions[0])
            step()
        for session, wish in zip(sessions, wishes):
            assert len(heard[session]) == (3 if session is sessions[0] else 4)
            assert_same(heard[session], alone(tiny_pipeline, wish, len(heard[session])))

    def test_threads_step_join_and_leave(self, tiny_pipeline):
        group = tiny_pipeline.live_group()
        heard: list = []
        errors: list = []

        def listener(seed):
            try:
                session = group.join("swing", seed=seed, tempo=120, **OPTIONS)
                for _ in range(3):
                    session.update(tempo=120 + seed)
                    heard.extend(group.step().items())
                session.close()
            except Exception as error:  # pragma: no cover
                errors.append(error)

        threads = [threading.Thread(target=listener, args=(seed,)) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors and group.sessions == []
        starts: dict = {}
        for session, block in heard:
            starts.setdefault(session, []).append(round(block.start * 75))
        for frames in starts.values():  # no block twice, none left out
            assert sorted(frames) == list(range(0, 12 * len(frames), 12))

    def test_closing(self, tiny_pipeline):
        with tiny_pipeline.live_group() as group:
            session = group.join("swing", **OPTIONS)
        assert session.closed and group.sessions == [] and group.step() == {}
        group.close()

    def test_wrong_ones_are_named(self, tiny_pipeline):
        group = tiny_pipeline.live_group()
        session = group.join("swing", **OPTIONS)
        with pytest.raises(ValueError, match="in the group already"):
            group.add(session)
        group.leave(session)
        with pytest.raises(ValueError, match="not in the group"):
            group.leave(session)
        with pytest.raises(ValueError, match="not in the group"):
            group.step([session])
        with pytest.raises(ValueError, match="another pipeline"):
            build_tiny_pipeline(seed=1).live_group().add(session)
        with pytest.raises(ValueError, match="tempo 500"):
            group.join("swing", tempo=500)
        assert group.sessions == []
