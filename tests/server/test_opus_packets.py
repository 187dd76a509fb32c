"""Live sessions as Opus packets: the PCM session's music, without a gap, in a fraction of its bytes."""

from __future__ import annotations

import itertools
import sys

import numpy as np
import pytest
from served import hear, hear_block, say
from test_live_socket import WISH, ending

pytest.importorskip("av", reason="Opus packets (the opus extra)")

import av

from rtjazz_hf.server.encoding import OPUS_PACKET, OpusEncoder

BLOCKS, SIZE = 12, 640 * 12  # of a session; samples of a block


def plucked(blocks):
    """Plucked chords `(2, samples)`, float32."""
    time = np.arange(blocks * SIZE) / 48_000
    pluck = np.exp(-6 * (time % 0.25))
    tones = [[np.sin(2 * np.pi * hz * detune * time) for hz in (110, 277, 330, 554)] for detune in (1, 1.003)]
    return (0.1 * np.array(tones).sum(1) * pluck).astype(np.float32)


def encoded(encoder, sound, size):
    """The packets of each block."""
    return [encoder.encode(sound[:, start : start + size]) for start in range(0, sound.shape[1], size)]


def joined(blocks):
    return list(itertools.chain.from_iterable(blocks))


def decoded(packets):
    """`(2, samples)` float32."""
    decoder = av.CodecContext.create("libopus", "r")
    decoder.sample_rate, decoder.layout = 48_000, "stereo"
    frames = [frame for packet in packets for frame in decoder.decode(av.Packet(packet))]
    assert {frame.format.name for frame in frames} == {"s16"}
    sound = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in frames])
    return sound.T.astype(np.float32) / 32_768


def session(server, encoding):
    """What is said of the blocks of a session, their bytes, and the pre-skip."""
    with server.live() as listener:
        say(listener, "start", encoding=encoding, **WISH)
        skip = hear(listener, "started")["pre_skip"]
        blocks = [hear_block(listener) for _ in range(BLOCKS)]
        say(listener, "stop")
        assert ending(listener)[0] == 1000
    return [described for described, _ in blocks], [data for _, data in blocks], skip


def split(data, sizes):
    assert sum(sizes) == len(data)
    ends = np.cumsum(sizes)
    return [data[end - size : end] for size, end in zip(sizes, ends)]


class TestSession:
    def test_is_the_pcm_session(self, server):
        assert "opus" in server.get("/v1/models").json()["models"][0]["encodings"]
        said, data, skip = session(server, "opus")
        _, floats, no_skip = session(server, "f32")
        assert no_skip == 0 < skip < OPUS_PACKET
        want = np.frombuffer(b"".join(floats), "<f4").reshape(-1, 2).T
        packets = [split(block, described["packets"]) for described, block in zip(said, data)]
        for described, block in zip(said, packets):
            assert len(block) * OPUS_PACKET == described["samples"]
            assert decoded(block).shape[1] == described["samples"]  # by itself, too
        heard = decoded(joined(packets))
        assert heard.shape == want.shape  # what the codec puts before is as long as what is yet to come
        assert np.corrcoef(heard[:, skip:].ravel(), want[:, :-skip].ravel())[0, 1] > 0.9
        seconds = want.shape[1] / 48_000
        floats, opus = (8 * sum(map(len, parts)) / seconds / 1000 for parts in (floats, data))
        print(f"kbit/s: {floats:.0f} as f32, {floats / 2:.0f} as s16, {opus:.0f} as Opus")
        assert opus < floats / 2 / 6

    @pytest.mark.parametrize("name", ["mp3", "OPUS", "opus;rm", "", 7, None, ["opus"]])
    def test_other_names_are_refused(self, server, name):
        with server.live() as listener:
            say(listener, "start", encoding=name, **WISH)
            assert "encoding" in hear(listener, "error")["detail"]
            assert ending(listener)[0] == 1008

    def test_without_the_library(self, server, monkeypatch):
        monkeypatch.setitem(sys.modules, "av", None)
        assert server.get("/v1/models").json()["models"][0]["encodings"] == ["f32", "s16"]
        with server.live() as listener:
            say(listener, "start", encoding="opus", **WISH)
            assert "pip install 'rtjazz-hf[opus]'; choose f32 or s16" in hear(listener, "error")["detail"]
            assert ending(listener)[0] == 1008


class TestEncoder:
    @pytest.mark.parametrize("frames", [6, 12, 24, 36, 48])
    def test_blocks_are_one_stream(self, frames):
        sound = plucked(12)
        pieces = encoded(OpusEncoder(), sound, 640 * frames)
        assert joined(pieces) == OpusEncoder().encode(sound)  # to the bit

    def test_has_no_gap_at_joins(self):
        sound, encoder = plucked(30), OpusEncoder()
        heard = decoded(joined(encoded(encoder, sound, SIZE)))[:, encoder.pre_skip :]
        error = heard - sound[:, : heard.shape[1]]
        assert np.corrcoef(heard.ravel(), sound[:, : heard.shape[1]].ravel())[0, 1] > 0.99
        pieces = error[:, : error.shape[1] // 240 * 240].reshape(2, -1, 240)  # of 5 ms
        level = np.sqrt((pieces**2).mean((0, 2)))
        joins = np.arange(SIZE, sound.shape[1] - SIZE, SIZE) // 240
        assert np.median(level[joins[:, None] + np.arange(-1, 2)]) < 3 * np.median(level)
