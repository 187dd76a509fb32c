"""Recordings of phones, chats and DAWs: all of each is read, from its first sample on, or a remedy is named."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest
import soundfile
import soxr

from rtjazz_hf.audio import audio_info, read_audio, write_audio

RATE = 44_100
SECONDS = 3.0


def hits():
    """`(2, samples)` at 44.1 kHz: short noises, whose place is heard to the sample."""
    rng = np.random.default_rng(0)
    audio = 0.001 * rng.normal(0, 1, (2, round(SECONDS * RATE)))
    for at in range(RATE // 4, audio.shape[1] - 4_000, RATE // 3):
        audio[:, at : at + 2_000] += 0.4 * rng.normal(0, 1, (2, 2_000)) * np.exp(-np.arange(2_000) / 300)
    return audio.clip(-1, 1).astype(np.float32)


def encoded(path, codec, container, rate=RATE, layout="stereo", **options):
    av = pytest.importorskip("av", reason="FFmpeg (the formats extra)")
    audio = hits() if rate == RATE else np.ascontiguousarray(soxr.resample(hits().T, RATE, rate).T)
    with av.open(str(path), "w", format=container, options=options) as out:
        stream = out.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128_000 if rate > 8_000 else 12_200
        stream.codec_context.open()
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.codec_context.format.name, layout, rate)
        for start in range(0, audio.shape[1], size):
            piece = np.ascontiguousarray(audio[:, start : start + size])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = rate, start
            for ready in resampler.resample(frame):
                out.mux(stream.encode(ready))
        out.mux(stream.encode(None))
    return path


def late(audio):
    """Samples at 48 kHz by which it comes later than `hits`."""
    want = soxr.resample(hits().T, RATE, 48_000).T[0]
    size = min(len(want), audio.shape[1])
    spectra = [np.fft.rfft(each[:size], 1 << 19) for each in (audio[0], want)]
    best = int(np.argmax(np.fft.irfft(spectra[0] * np.conj(spectra[1]))))
    return best if best < 1 << 18 else best - (1 << 19)


KINDS = [
    ("a.m4a", "aac", "ipod", {}),
    ("alac.m4a", "alac", "ipod", {}),
    ("a.mp4", "aac", "mp4", {}),
    ("a.aac", "aac", "adts", {}),
    ("a.mkv", "aac", "matroska", {}),
    ("a.mov", "aac", "mov", {}),
    ("a.3gp", "aac", "3gp", {}),
    ("o.webm", "libopus", "webm", {}),
    ("o.mka", "libopus", "matroska", {}),
    ("o.opus", "libopus", "ogg", {}),
    ("w.wma", "wmav2", "asf", {}),
    ("m.mp3", "libmp3lame", "mp3", {}),
    ("untold.mp3", "libmp3lame", "mp3", {"write_xing": "0"}),
    ("untold-id3.mp3", "libmp3lame", "mp3", {"write_xing": "0", "id3v2_version": "3"}),
    ("m.wav", "libmp3lame", "wav", {}),
    ("f.ogg", "flac", "ogg", {}),
    ("f.flac", "flac", "flac", {}),
    ("p.wav", "pcm_s16le", "wav", {}),
    ("p.caf", "pcm_s16be", "caf", {}),
    ("p.aiff", "pcm_s16be", "aiff", {}),
    ("p.mov", "pcm_s16be", "mov", {}),
    ("ima.wav", "adpcm_ms", "wav", {}),
]  # fmt: skip
MORE = [
    ("voice.opus", "libopus", "ogg", {"rate": 16_000, "layout": "mono"}),  # a voice message
    ("voice.m4a", "aac", "ipod", {"rate": 48_000, "layout": "mono"}),  # a phone's memo
    ("voice.amr", "libopencore_amrnb", "amr", {"rate": 8_000, "layout": "mono"}),
    ("voice.mka", "libmp3lame", "matroska", {}),
    ("film.mka", "ac3", "matroska", {}),
    ("alac.mov", "alac", "mov", {}),
    ("slow.m4a", "aac", "ipod", {"rate": 22_050}),
    ("high.m4a", "alac", "ipod", {"rate": 96_000}),
    ("24.wav", "pcm_s24le", "wav", {}),
    ("float.wav", "pcm_f32le", "wav", {}),
    ("mulaw.wav", "pcm_mulaw", "wav", {}),
    ("p.w64", "pcm_s16le", "w64", {}),
    ("p.au", "pcm_s16be", "au", {}),
    ("high.flac", "flac", "flac", {"rate": 96_000}),
]  # fmt: skip
SLOW = [pytest.param(*kind, id=kind[0], marks=pytest.mark.slow) for kind in MORE]


@pytest.mark.parametrize(
    ("name", "codec", "container", "options"), [*(pytest.param(*kind, id=kind[0]) for kind in KINDS), *SLOW]
)
def test_all_of_it_is_read_and_in_its_place(tmp_path, name, codec, container, options):
    """With `-m "slow or not slow" -s`, a table of 36 files."""
    options = {"rate": 48_000 if codec == "libopus" else RATE, **options}
    path = encoded(tmp_path / name, codec, container, **options)
    audio = read_audio(path)
    print(f"\n{name:14} {codec:18} {late(audio) / 48:+.2f} ms late, {audio.shape[1] / 48_000:.3f} s", end="")
    assert abs(late(audio)) < 48, late(audio)  # 1 ms
    assert SECONDS - 0.001 < audio.shape[1] / 48_000 < SECONDS + 0.06  # an encoder's last frame
    info = audio_info(path)
    assert info.channels == (1 if "layout" in options else 2)
    assert round(info.duration * 48_000) == pytest.approx(audio.shape[1], abs=1)
    part = read_audio(path, start=1.0, duration=0.5)  # as the whole has it
    assert np.abs(part - audio[:, 48_000:72_000])[:, 200:-200].max() < 1e-4


def test_variable_rate_without_a_header_is_read_to_its_end(tmp_path):
    """Silence first: its frames are small, and libsndfile takes all for such."""
    av = pytest.importorskip("av")
    path = tmp_path / "vbr.mp3"
    audio = np.concatenate([np.zeros((2, 2 * RATE), np.float32), hits()], axis=1)
    with av.open(str(path), "w", format="mp3", options={"write_xing": "0"}) as out:
        stream = out.add_stream("libmp3lame", rate=RATE, layout="stereo", options={"abr": "1"})
        stream.bit_rate = 192_000
        stream.codec_context.open()
        for start in range(0, audio.shape[1], 1152):
            piece = np.ascontiguousarray(audio[:, start : start + 1152])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = RATE, start
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    read = read_audio(path)
    assert read.shape[1] / 48_000 == pytest.approx(SECONDS + 2.0, abs=0.06)
    assert np.abs(read[:, 48_000 * 4 :]).max() > 0.1


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("told", [0, 0xFFFFFFFF])
def test_a_wav_whose_recorder_died(tmp_path, subtype, told):
    path = write_audio(tmp_path / "a.wav", hits(), sampling_rate=RATE, subtype=subtype)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4], data[4:8] = struct.pack("<I", told), struct.pack("<I", told)
    whole = read_audio(path)
    path.write_bytes(data)
    assert np.array_equal(read_audio(path), whole) and audio_info(path).samples == hits().shape[1]
    path.write_bytes(data[:-1001])  # in the middle of a sample
    assert 0 < whole.shape[1] - read_audio(path).shape[1] < 600


def test_an_empty_wav_is_empty(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((0, 2)), RATE)
    with pytest.raises(ValueError, match="holds no samples"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_cut_short(tmp_path, share):
    path = encoded(tmp_path / "a.m4a", "alac", "ipod", movflags="faststart")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"a\.m4a'.* cut short"):
        read_audio(path)


def test_no_sound_in_it(tmp_path):
    for name, content in (("a.m4a", b"not a sound file" * 100), ("b.webm", b""), ("c.mp3", bytes(5000))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=name):
            read_audio(tmp_path / name)


def test_without_ffmpeg_the_remedy_is_named(tmp_path, monkeypatch):
    paths = [encoded(tmp_path / "a.m4a", "aac", "ipod")]
    paths.append(encoded(tmp_path / "b.mp3", "libmp3lame", "mp3", write_xing="0"))
    monkeypatch.setitem(sys.modules, "av", None)
    for path in paths:
        with pytest.raises(ValueError, match=rf"{path.name}'.*rtjazz-hf\[formats\].*ffmpeg -i {path.name}"):
            read_audio(path)
