from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from rtjazz_hf import audio as audio_io
from rtjazz_hf.audio import (
    SAMPLE_RATE,
    audio_info,
    check_output_path,
    measure_loudness,
    plot_spectrogram,
    plot_spectrogram_grid,
    read_audio,
    read_audio_blocks,
    write_audio,
    write_audio_blocks,
)


def tone(seconds: float = 0.5, hz: float = 440.0, rate: int = SAMPLE_RATE) -> np.ndarray:
    t = np.arange(int(seconds * rate)) / rate
    return (0.3 * np.stack([np.sin(2 * np.pi * hz * t), np.cos(2 * np.pi * hz * t)])).astype(np.float32)


class Chart:
    """The four methods of a lead sheet that a picture uses: four beats of each chord at 120 a minute."""

    def chord_segments(self, start_s, duration_s):
        count = int(np.ceil(duration_s / 2))
        return [
            (2.0 * i, min(2.0 * i + 2, duration_s), SimpleNamespace(symbol=f"C{i}")) for i in range(count)
        ]

    def beat_times(self, start_s, duration_s):
        return np.arange(0, duration_s, 0.5)

    def beat_at(self, seconds):
        return seconds * 2

    def bar_at(self, beat):
        return int(beat // 4), beat % 4


class TestRoundTrip:
    @pytest.mark.parametrize(("suffix", "tolerance"), [(".wav", 1e-4), (".flac", 1e-4), (".ogg", 0.08)])
    def test_what_is_written_is_read(self, tmp_path, suffix, tolerance):
        path = write_audio(tmp_path / f"a{suffix}", tone())
        read = read_audio(path)
        assert read.dtype == np.float32
        assert read.shape == (2, 24000)
        assert np.abs(read - tone()).max() < tolerance

    def test_float_wav_is_exact_and_keeps_peaks(self, tmp_path):
        loud = tone() * 5
        assert np.array_equal(read_audio(write_audio(tmp_path / "a.wav", loud, subtype="FLOAT")), loud)

    def test_sixteen_bits_clip_instead_of_wrapping(self, tmp_path):
        read = read_audio(write_audio(tmp_path / "a.wav", tone() * 5))
        assert read.max() <= 1.0
        assert np.corrcoef(read[0], tone()[0])[0, 1] > 0.9

    def test_minutes_of_vorbis_do_not_crash(self, tmp_path):
        path = write_audio(tmp_path / "long.ogg", tone(90.0))
        assert soundfile.info(path).frames == 90 * SAMPLE_RATE

    def test_torch_tensors_and_mono_are_taken(self, tmp_path):
        torch = pytest.importorskip("torch")
        path = write_audio(tmp_path / "a.wav", torch.from_numpy(tone())[0])
        assert soundfile.info(path).channels == 1

    @pytest.mark.parametrize("rate", [8000, 22050, 44100, 96000])
    def test_any_rate_becomes_48_khz_stereo(self, tmp_path, rate):
        soundfile.write(tmp_path / "a.wav", tone(0.5, rate=rate)[0], rate)
        read = read_audio(tmp_path / "a.wav")
        assert abs(read.shape[1] - 24000) <= 2
        assert np.array_equal(read[0], read[1])
        middle = slice(4000, 20000)
        assert np.abs(read[0, middle] - tone()[0, middle]).max() < 0.01

    def test_a_part_equals_the_slice(self, tmp_path):
        write_audio(tmp_path / "a.flac", tone())
        whole, part = (
            read_audio(tmp_path / "a.flac"),
            read_audio(tmp_path / "a.flac", start=0.1, duration=0.2),
        )
        assert np.array_equal(part, whole[:, 4800:14400])


class TestBlocks:
    @pytest.mark.parametrize("rate", [8000, 44100, 48000, 96000])
    @pytest.mark.parametrize("block_seconds", [0.001, 0.0333, 10.0])
    def test_joined_they_are_the_whole(self, tmp_path, rate, block_seconds):
        soundfile.write(tmp_path / "a.wav", tone(0.5, rate=rate).T, rate)
        blocks = list(read_audio_blocks(tmp_path / "a.wav", block_seconds=block_seconds))
        assert len(blocks) > 1 or block_seconds == 10
        assert np.array_equal(np.concatenate(blocks, axis=1), read_audio(tmp_path / "a.wav"))

    def test_written_in_blocks(self, tmp_path):
        parts = (tone()[:, start : start + 777] for start in range(0, 24000, 777))
        path = write_audio_blocks(tmp_path / "a.wav", parts)
        assert path.read_bytes() == write_audio(tmp_path / "b.wav", tone()).read_bytes()

    def test_an_error_in_a_block_leaves_nothing(self, tmp_path):
        def parts():
            yield tone()
            raise ValueError("no more")

        with pytest.raises(ValueError, match="no more"):
            write_audio_blocks(tmp_path / "a.wav", parts())
        with pytest.raises(ValueError, match="no samples"):
            write_audio_blocks(tmp_path / "a.wav", [])
        assert not list(tmp_path.iterdir())

    def test_info(self, tmp_path):
        soundfile.write(tmp_path / "a.wav", tone(0.5, rate=44100)[0], 44100)
        info = audio_info(tmp_path / "a.wav")
        assert (info.sampling_rate, info.channels, info.samples, info.duration) == (44100, 1, 22050, 0.5)


class TestBadFiles:
    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
    def test_cut_short(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (48000 * 3, 2)), SAMPLE_RATE)
        assert read_audio(path).shape[1] >= 48000 * 3
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(ValueError, match=rf"a\.{suffix}.*cut short"):
            read_audio(path)

    def test_a_length_that_was_never_known_is_no_cut(self, tmp_path):
        content = write_audio(tmp_path / "a.wav", tone()).read_bytes()
        place = content.index(b"data") + 4  # as ffmpeg writes it into a pipe
        (tmp_path / "a.wav").write_bytes(content[:place] + b"\xff" * 4 + content[place + 4 :])
        assert read_audio(tmp_path / "a.wav").shape == (2, 24000)

    def test_a_flac_of_unknown_length(self, tmp_path):
        content = bytearray(write_audio(tmp_path / "a.flac", tone()).read_bytes())
        content[21] &= 0xF0  # total samples: the last 36 bits of 8 bytes
        content[22:26] = bytes(4)
        (tmp_path / "a.flac").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.flac.*length.*ffmpeg"):
            read_audio(tmp_path / "a.flac")

    def test_where_a_bad_sample_is(self, tmp_path):
        sound = tone(2.0).T.copy()
        sound[60000, 1] = np.inf
        soundfile.write(tmp_path / "a.wav", sound, SAMPLE_RATE, subtype="FLOAT")
        with pytest.raises(ValueError, match=r"a\.wav.*1\.250 s"):
            read_audio(tmp_path / "a.wav")

    def test_every_error_names_the_file(self, tmp_path):
        (tmp_path / "text.wav").write_text("not sound")
        (tmp_path / "zero.wav").write_bytes(b"")
        soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), SAMPLE_RATE)
        soundfile.write(tmp_path / "surround.wav", np.zeros((100, 6)), SAMPLE_RATE)
        soundfile.write(
            tmp_path / "nan.wav", np.full((100, 2), np.nan, np.float32), SAMPLE_RATE, subtype="FLOAT"
        )
        write_audio(tmp_path / "whole.flac", np.random.default_rng(0).uniform(-1, 1, (2, 48000)))
        content = (tmp_path / "whole.flac").read_bytes()
        (tmp_path / "cut.flac").write_bytes(content[: len(content) // 2])
        soundfile.write(tmp_path / "pcm.wav", np.full((100, 2), 32767.0), SAMPLE_RATE, subtype="FLOAT")
        os.mkfifo(tmp_path / "pipe.wav")  # nobody writes: opening it would wait for ever
        names = "text.wav zero.wav empty.wav surround.wav nan.wav cut.flac pcm.wav pipe.wav"
        for name in names.split():
            with pytest.raises(ValueError, match=name):
                read_audio(tmp_path / name)

    def test_missing_and_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"gone\.wav"):
            read_audio(tmp_path / "gone.wav")
        with pytest.raises(IsADirectoryError):
            read_audio(tmp_path)

    def test_a_start_after_the_end(self, tmp_path):
        write_audio(tmp_path / "a.wav", tone())
        with pytest.raises(ValueError, match=r"lasts 0\.50 s"):
            read_audio(tmp_path / "a.wav", start=2.0)


class TestOutputPath:
    def test_refusals(self, tmp_path):
        (tmp_path / "there.wav").write_bytes(b"keep me")
        with pytest.raises(FileExistsError, match="--overwrite"):
            check_output_path(tmp_path / "there.wav")
        with pytest.raises(IsADirectoryError):
            check_output_path(tmp_path)
        with pytest.raises(FileNotFoundError, match="no_folder"):
            check_output_path(tmp_path / "no_folder" / "a.wav")
        with pytest.raises(ValueError, match=r"\.wav, \.flac, \.ogg"):
            check_output_path(tmp_path / "a.mp3")
        with pytest.raises(ValueError, match="no suffix"):
            check_output_path(tmp_path / "a")
        assert (tmp_path / "there.wav").read_bytes() == b"keep me"
        assert check_output_path(tmp_path / "there.wav", overwrite=True) == tmp_path / "there.wav"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_no_permission(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError):
            check_output_path(tmp_path / "a.wav")

    @pytest.mark.parametrize(
        "bad", [np.zeros((2, 0)), np.zeros((3, 9)), np.zeros((1, 2, 9)), np.full((2, 9), np.nan)]
    )
    def test_bad_audio_writes_nothing(self, tmp_path, bad):
        with pytest.raises(ValueError):
            write_audio(tmp_path / "a.wav", bad)
        assert not list(tmp_path.iterdir())

    def test_an_interrupt_leaves_no_file_and_keeps_the_old_one(self, tmp_path, monkeypatch):
        old = write_audio(tmp_path / "a.wav", tone()).read_bytes()

        def interrupt(*_):
            raise KeyboardInterrupt

        monkeypatch.setattr(audio_io.soundfile.SoundFile, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_audio(tmp_path / "a.wav", tone(), overwrite=True)
        assert [p.name for p in tmp_path.iterdir()] == ["a.wav"]
        assert (tmp_path / "a.wav").read_bytes() == old


def test_loudness():
    pytest.importorskip("pyloudnorm")
    stereo_sine = np.repeat(tone(2.0, 997.0)[:1] / 0.3, 2, axis=0)
    assert measure_loudness(stereo_sine) == pytest.approx(0.0, abs=0.2)  # BS.1770: 0 dBFS in both is 0 LUFS
    assert measure_loudness(stereo_sine * 0.1) == pytest.approx(-20.0, abs=0.2)
    assert measure_loudness(np.zeros((2, 48000))) == -np.inf
    with pytest.raises(ValueError, match=r"0\.4 s"):
        measure_loudness(tone(0.1))


def test_pictures(tmp_path):
    pytest.importorskip("matplotlib")
    plot_spectrogram(tone(4.0), tmp_path / "one.png", Chart(), "a tone")
    plot_spectrogram_grid(
        [("a", tone(1.0), Chart()), ("b", tone(1.0), None), ("c", tone(1.0), Chart())], tmp_path / "three.png"
    )
    assert all((tmp_path / name).stat().st_size > 10_000 for name in ("one.png", "three.png"))
    with pytest.raises(ValueError, match=r"\.png"):
        plot_spectrogram(tone(1.0), tmp_path / "one.gif")
