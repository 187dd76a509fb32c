"""The long evening, on a clock that goes as it is told: what it sees, and what it says is wrong."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from rtjazz_hf.benchmark.soak import Soak, soak
from rtjazz_hf.live.outputs import PacedOutput

FAST = {"num_inference_steps": 1, "guidance_scale": 1.0, "window_frames": 36}


def block(audio, seconds=0.01):
    return SimpleNamespace(audio=audio.astype(np.float32), seconds=seconds)


def tone(start, samples=23_040, level=0.1, hz=440.0):
    return np.tile(level * np.sin(2 * np.pi * hz * (start + np.arange(samples)) / 48_000), (2, 1))


def test_a_session_that_is_steered(tiny_pipeline):
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    output = PacedOutput(buffer=0.4, clock=lambda: now[0], sleep=sleep)
    with tiny_pipeline.live("swing", tempo=120, seed=1, **FAST) as session:
        seen = soak(session, 12.0, change_every=1.0, output=output)
    assert seen.changes in (11, 12) and seen.under_runs == seen.not_finite == 0 and len(seen.memory) >= 5
    assert seen.to_dict()["seconds"] > 11.9 and now[0] > 11.9


def test_what_is_wrong_is_seen():
    well = Soak()
    for number in range(40):
        well.take(block(tone(23_040 * number)))
        well.memory.append((well.seconds, 900_000_000))
    assert well.problems() == [] and well.clicks == 0
    ill = Soak(under_runs=2)
    for number in range(40):
        audio = tone(23_040 * number + 27 * (number == 20), level=0.1 if number < 20 else 0.2)
        audio[:, 5] = np.nan if number == 10 else audio[:, 5]
        ill.take(block(audio * (0 if number == 30 else 1)))
        ill.memory.append((ill.seconds, 900_000_000 + 1_000_000 * number))
    said = " ".join(ill.problems())
    for words in (
        "2 under-runs",
        "1 blocks that are not finite",
        "1 silent",
        "clicks",
        "grew by 3",
        "drifted by +6",
    ):
        assert words in said, said
