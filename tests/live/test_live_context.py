"""A session that goes on from a clip: what it heard, how it joins, and clips that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import plucked_clip

from rtjazz_hf.audio import resample
from rtjazz_hf.evaluation.measures.metrics import join_jumps
from rtjazz_hf.live.context import crossfade_end

OPTIONS = {"chords": "Dm7 | G7", "tempo": 120, "seed": 1, "block_frames": 12}


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return plucked_clip(2.0)[0].numpy()


def open_session(pipe, clip, **options):
    return pipe.live("swing", context=clip, **{**OPTIONS, **options})


def latents_up_to_the_join(pipe, clip):
    """The 12 whole blocks of 12 frames before the codec's overlap at the end of two seconds."""
    start = (clip.shape[1] - 256) % 640
    aligned = torch.from_numpy(clip[None, :, start:])
    return pipe.codec.encode(aligned, return_codes=False).latents[..., 5:149]


class TestContext:
    def test_is_what_the_first_block_hears(self, tiny_pipeline, clip):
        session = open_session(tiny_pipeline, clip)
        assert session.stream.cache.num_frames == 144  # 149 whole frames, in blocks of 12
        assert session.position == 0 and (block := next(session)).bar == 1 and block.beat == 1.0
        without = next(tiny_pipeline.live("swing", **OPTIONS))
        assert not np.allclose(block.latents, without.latents)

        latents = latents_up_to_the_join(tiny_pipeline, clip)
        stream = tiny_pipeline.prepare_stream([torch.Generator()], 12, 300)
        for piece in latents.split(12, dim=-1):
            stream.append(piece)
        fresh = open_session(tiny_pipeline, clip).stream
        for got, want in zip(fresh.cache.keys, stream.cache.keys):
            torch.testing.assert_close(got, want, rtol=0, atol=1e-3)

    def test_the_decoder_goes_on(self, tiny_pipeline, clip):
        session = open_session(tiny_pipeline, clip)
        block = next(session)
        latents = latents_up_to_the_join(tiny_pipeline, clip)
        both = torch.cat([latents, torch.from_numpy(block.latents)[None]], dim=-1)
        decoded = tiny_pipeline.codec.decode(latents=both).audio[0].numpy()
        np.testing.assert_allclose(decoded[:, -block.audio.shape[1] :], block.audio, atol=2e-3)

    def test_joins_without_a_click(self, tiny_pipeline, clip):
        session = open_session(tiny_pipeline, clip)
        heard = session.context_audio
        assert heard.shape == (2, clip.shape[1] - 256)  # up to the codec's overlap
        assert np.array_equal(heard[:, :-4800], clip[:, : heard.shape[1] - 4800])
        audio = np.concatenate([heard, next(session).audio, next(session).audio], axis=1)
        assert join_jumps(audio, [heard.shape[1]])["ratio"] <= 1

    def test_crossfade_keeps_the_power(self):
        rng = np.random.default_rng(0)
        first, second = rng.standard_normal((2, 2, 48_000)).astype(np.float32)
        joined = crossfade_end(first, second)
        assert np.array_equal(joined[:, :-4800], first[:, :-4800])
        assert np.allclose(joined[:, -1], second[:, -1], atol=1e-5)
        assert np.var(joined[:, -4800:]) == pytest.approx(1.0, abs=0.05)

    def test_of_other_rates_and_shapes(self, tiny_pipeline, clip):
        mono = clip.mean(0)
        want = next(open_session(tiny_pipeline, np.stack([mono, mono]))).audio
        for shaped in (mono, mono[None], torch.from_numpy(mono), mono.astype(np.float64)):
            assert np.array_equal(next(open_session(tiny_pipeline, shaped)).audio, want)
        slow = resample(clip, 48_000, 24_000)
        session = open_session(tiny_pipeline, slow, context_sampling_rate=24_000)
        assert session.context_audio.shape == (2, 96_000 - 256)
        assert next(session).audio.shape == (2, 7680)

    def test_of_any_length(self, tiny_pipeline, clip):
        short = open_session(tiny_pipeline, clip[:, -4500:])  # 6 frames and the overlap
        assert short.stream.cache.num_frames == 6 and next(short).start == 0
        long = np.tile(clip, 4)
        session = open_session(tiny_pipeline, long, window_frames=48)
        assert session.stream.cache.num_frames == 48
        same = open_session(tiny_pipeline, long[:, -clip.shape[1] * 2 :], window_frames=48)
        assert np.array_equal(next(session).audio, next(same).audio)
        assert session.context_audio.shape[1] == long.shape[1] - 256
        assert next(open_session(tiny_pipeline, clip, window_frames=6)).start == 0

    def test_starts_in_the_bar(self, tiny_pipeline, clip):
        block = next(open_session(tiny_pipeline, clip, start_beat=3.0))
        assert (block.bar, block.beat) == (1, 4.0)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda clip: np.zeros_like(clip), "context are silent"),
            (lambda clip: clip * np.float32("nan"), "context: audio holds NaN"),
            (lambda clip: clip[:, :2000], "0.042 s: give 0.086 s or more"),
            (lambda clip: clip[:, :0], "context: audio holds no samples"),
            (lambda clip: clip.T, "shape"),
            (lambda clip: np.zeros((3, 48_000), np.float32), "shape"),
            (lambda clip: (clip * 32767).astype(np.int16), "context of int16"),
            (lambda clip: clip * 32767, "scale PCM"),
            (lambda clip: "take.wav", "context of type str"),
        ],
    )
    def test_wrong_ones_are_named(self, tiny_pipeline, clip, change, words):
        with pytest.raises(ValueError, match=words):
            open_session(tiny_pipeline, change(clip))

    @pytest.mark.parametrize("rate", [0, -48_000, float("nan"), "48k", True])
    def test_wrong_rates_are_named(self, tiny_pipeline, clip, rate):
        with pytest.raises(ValueError, match="context_sampling_rate"):
            open_session(tiny_pipeline, clip, context_sampling_rate=rate)
