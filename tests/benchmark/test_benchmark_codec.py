"""The benchmark's figures are there and hang together. No assertion here is about how fast anything is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import EncodecModel

from rtjazz_hf.benchmark import benchmark_codec, encodec_48khz_config
from rtjazz_hf.benchmark.codec import _clip

TINY_ENCODEC = {
    "num_filters": 4,
    "hidden_size": 8,
    "num_lstm_layers": 1,
    "codebook_size": 16,
    "codebook_dim": 8,
}


@pytest.fixture(scope="module")
def result(tiny_pipeline):
    config = encodec_48khz_config()
    for name, value in TINY_ENCODEC.items():
        setattr(config, name, value)
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    result = benchmark_codec(tiny_pipeline.codec, 1.2, threads=1, repeats=1, encodec=config)
    assert torch.get_num_threads() == threads  # as they were
    assert torch.equal(torch.get_rng_state(), state)
    return result


def test_every_direction_has_its_figures(result):
    assert set(result["whole"]) == {"encode", "decode"} and set(result["stream"]) == {"1", "8"}
    for figures in [*result["whole"].values(), *(result["encodec"][name] for name in ("encode", "decode"))]:
        assert 0 < figures["least_real_time_factor"] <= figures["real_time_factor"]
    for directions in result["stream"].values():
        for figures in directions.values():
            assert 0 < figures["ms_p50"] <= figures["ms_p95"] <= figures["ms_p99"]
    for name, figures in result["whole"].items():
        ratio = result["encodec"][name]["real_time_factor"] / figures["real_time_factor"]
        assert figures["times_faster_than_encodec"] == pytest.approx(ratio)


def test_pieces_of_90_frames_are_counted_and_their_length_is_right(result):
    assert result["stream"]["1"]["decode"]["pieces"] == 90
    assert (
        result["stream"]["1"]["encode"]["pieces"] == 89
    )  # the last one flushes the stream: not like the others
    assert result["stream"]["8"]["decode"]["pieces"] == 11  # and two frames left over
    assert result["stream"]["8"]["decode"]["duration_ms"] == pytest.approx(8000 / 75)


def test_streams_give_what_whole_clips_do(result):
    for differences in result["split_difference"].values():
        assert differences["decode"] < 1e-5 and differences["encode"] < 1e-3


def test_the_peer_is_encodec_at_48_khz_stereo():
    config = encodec_48khz_config()
    assert (config.sampling_rate, config.audio_channels, config.chunk_length) == (48000, 2, 48000)
    assert config.num_quantizers == 16 and config.frame_rate == 150
    with torch.device("meta"):
        assert 14e6 < sum(p.numel() for p in EncodecModel(config).parameters()) < 16e6


def test_without_the_peer(tiny_pipeline):
    result = benchmark_codec(
        tiny_pipeline.codec, 0.1, repeats=1, encodec=False, piece_frames=(8,), num_codebooks=1,
        audio=np.ones((2, 100), dtype=np.float32),
    )  # fmt: skip
    assert "encodec" not in result and "times_faster_than_encodec" not in result["whole"]["decode"]
    assert result["settings"]["num_codebooks"] == 1
    assert result["stream"]["8"]["decode"]["pieces"] == 1


def test_a_short_sound_is_repeated():
    clip = _clip(np.arange(6, dtype=np.float32).reshape(2, 3), 7)
    assert clip[0, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"repeats": 0}, "repeats=0"),
        ({"threads": 0}, "threads=0"),
        ({"seconds": 0.0}, "frames=0"),
        ({"piece_frames": ()}, "piece_frames"),
        ({"audio": np.zeros((1, 9))}, "allowed is"),
    ],
)
def test_bad_settings_are_named(tiny_pipeline, wrong, said):
    with pytest.raises(ValueError, match=said):
        benchmark_codec(tiny_pipeline.codec, **wrong)
