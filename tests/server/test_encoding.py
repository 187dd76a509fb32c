"""Sound as bytes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi", reason="the web API (the serve extra)")

from rtjazz_hf.server.encoding import CLIP_FORMATS, ClipEncoder, pcm

SOUND = (0.3 * np.sin(np.arange(50_000)[None] * np.array([[0.02], [0.05]]))).astype(np.float32)


@pytest.mark.parametrize("name", CLIP_FORMATS)
@pytest.mark.parametrize("piece", [50_000, 7680, 999])
def test_pieces_make_a_file(name, piece):
    encoder = ClipEncoder(name, SOUND.shape[1])
    data = [encoder.encode(SOUND[:, start : start + piece]) for start in range(0, SOUND.shape[1], piece)]
    data.append(encoder.finish())
    heard, rate = soundfile.read(io.BytesIO(b"".join(data)))
    assert rate == 48_000 and heard.shape == (50_000, 2)
    if name in ("wav", "flac"):
        np.testing.assert_allclose(heard.T, SOUND, rtol=0, atol=1 / 32_768)
    assert sum(map(bool, data)) > 1 or piece == 50_000 or name in ("flac", "ogg", "opus")


def test_pcm():
    loud = np.array([[0.5, 2.0], [-0.25, -2.0]], dtype=np.float32)
    np.testing.assert_array_equal(np.frombuffer(pcm(loud, "f32"), "<f4"), [0.5, -0.25, 2.0, -2.0])
    np.testing.assert_array_equal(np.frombuffer(pcm(loud, "s16"), "<i2"), [16384, -8192, 32767, -32767])
