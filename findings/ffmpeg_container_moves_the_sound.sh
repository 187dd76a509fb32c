#!/usr/bin/env bash
# PyAV 18.1.0 (the FFmpeg in its wheel): the same encoder's sound lands up to 46 ms off, by the container alone
#
# A good engineer would guess: write a sound, read it back, and it stands where it stood (some samples longer at the end), whatever
# the file is called. If the encoder's delay is undone for .m4a, it is for .aac, .ts and .mp3 too.
#
# What happens: the delay is undone only where the container keeps a note of it. ADTS and MPEG-TS keep none and come late; so does an
# MP3 without the Xing/LAME header; ASF (.wma) loses the first frame and comes early. Seen, in samples at 44,100 a second:
#     .m4a aac 0, .aac aac 1024, .ts aac 1024, .mp3 0, .mp3 without Xing header 1105, .wma -2048
#
# Why it matters: stems, beat annotations and reference recordings that were made from one take no longer line up: 23 to 46 ms is
# more than a swing ratio or an onset test allows, and loss of the first 46 ms is loss of a pick-up note. Recordings of internet radio
# (.aac) and old rips are of these kinds. Align against something known, or keep masters in WAV or FLAC.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile numpy==2.4.6 av==18.1.0
venv/bin/python - <<'PY'
from fractions import Fraction

import av
import numpy as np

rate, size = 44_100, 1 << 17
sound = np.zeros(rate, np.float32)
sound[20_000:22_000] = 0.3 * np.random.default_rng(0).standard_normal(2_000)


def lag(path, codec, options={}):
    with av.open(path, "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        stream.bit_rate = 128_000
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        for packet in stream.encode(frame) + stream.encode(None):
            container.mux(packet)
    with av.open(path) as container:
        heard = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], -1)[0]
    match = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(sound, size)))
    best = int(np.argmax(match))
    return best if best < size // 2 else best - size


lags = {
    ".m4a aac": lag("a.m4a", "aac"),
    ".aac aac": lag("a.aac", "aac"),
    ".ts aac": lag("a.ts", "aac"),
    ".mp3": lag("a.mp3", "mp3"),
    ".mp3 without Xing header": lag("b.mp3", "mp3", {"write_xing": "0"}),
    ".wma": lag("a.wma", "wmav2"),
}
print(", ".join(f"{name} {samples}" for name, samples in lags.items()))
assert list(lags.values()) == [0, 1024, 1024, 0, 1105, -2048], "changed: the sound stands elsewhere"
PY
