"""Round trips through Opus: lengths, rates, alignment. Need opus-tools or ffmpeg."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from tiny_models import plucked_clip

from rtjazz_hf.evaluation.measures import opus

PROGRAMS = [name for name in ("opusenc", "ffmpeg") if shutil.which(name)]
needs_opus = pytest.mark.skipif(not PROGRAMS, reason="neither opus-tools nor ffmpeg is installed")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return plucked_clip(3.0)[0].numpy()


@needs_opus
@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("kilobits", [8, 32, 128])
def test_what_comes_back_is_as_long_and_lies_on_what_went_in(clip, program, kilobits):
    clip = clip[:, :-77]  # no whole number of Opus frames
    result = opus.opus_round_trip(clip, kilobits, program)
    assert result.audio.shape == clip.shape
    assert opus.find_delay(clip, result.audio) == 0
    assert abs(result.delay) <= 8
    assert result.program == program
    if kilobits > 8:  # no SILK: nothing to correct, the container's pre-skip is all the delay
        assert result.delay == 0


@needs_opus
def test_rates_rise_and_leave_the_container_out(clip):
    results = [opus.opus_round_trip(clip, kilobits) for kilobits in (8, 24, 96)]
    rates = [result.bitrate for result in results]
    assert rates == sorted(rates) and 4000 < rates[0] < 14000
    errors = [np.mean((result.audio - clip) ** 2) for result in results]
    assert errors == sorted(errors, reverse=True)
    assert all(result.bitrate < result.container_bitrate for result in results)


@needs_opus
def test_a_kept_file_gives_the_same_round_trip(clip, tmp_path):
    first = opus.opus_round_trip(clip, 16, cache=tmp_path / "kept", name="a take/of mine")
    files = list((tmp_path / "kept").iterdir())
    assert len(files) == 1 and files[0].name.startswith("a_take_of_mine-")
    before = files[0].stat().st_mtime_ns
    again = opus.opus_round_trip(clip, 16, cache=tmp_path / "kept", name="a take/of mine")
    assert np.array_equal(first.audio, again.audio) and first.bitrate == again.bitrate
    assert files[0].stat().st_mtime_ns == before
    opus.opus_round_trip(0.5 * clip, 16, cache=tmp_path / "kept", name="a take/of mine")
    assert len(list((tmp_path / "kept").iterdir())) == 2  # another clip under the same name


@needs_opus
@pytest.mark.parametrize(
    "audio, kilobits, said",
    [
        (np.zeros((1, 4800)), 16, "(2, samples)"),
        (np.zeros((2, 4800)), 3, "6 to 510"),
        (np.zeros((2, 4800)), 600, "6 to 510"),
        (np.full((2, 4800), np.nan), 16, "NaN"),
        (np.zeros((2, 0)), 16, "shape"),
    ],
)
def test_bad_input_is_named(audio, kilobits, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(").replace(")", r"\)")):
        opus.opus_round_trip(audio, kilobits)


def test_without_a_program_the_error_says_how_to_install_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    opus.find_opus.cache_clear()
    try:
        with pytest.raises(opus.OpusUnavailable, match="apt-get install opus-tools"):
            opus.opus_round_trip(np.zeros((2, 4800)), 16)
    finally:
        opus.find_opus.cache_clear()


def test_a_broken_file_is_no_rate():
    with pytest.raises(ValueError, match="no Ogg page"):
        opus.packet_bytes(b"x" * 100)
    with pytest.raises(ValueError, match="no audio packets"):
        opus.packet_bytes(b"")


class TestFindDelay:
    @pytest.mark.parametrize("delay", [-31, 0, 5, 48])
    def test_a_shift_is_found(self, delay):
        rng = np.random.default_rng(0)
        clip = rng.standard_normal((2, 9600))
        assert opus.find_delay(clip, np.roll(clip, delay, axis=1)) == delay
