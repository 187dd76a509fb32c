import numpy as np
import pytest

from rtjazz_hf.audio import SAMPLE_RATE, write_audio
from rtjazz_hf.corpus.personal import find_recordings, prepare_takes, why_unusable


def tone(seconds, level=0.1):
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return np.stack([level * np.sin(2 * np.pi * 220 * time)] * 2).astype(np.float32)


@pytest.mark.parametrize(
    ("audio", "reason"),
    [(tone(2), "too short"), (tone(8) * 0, "silent"), (np.clip(tone(8, 5.0), -1, 1), "clipped")],
)
def test_unusable_recordings_are_told_why(audio, reason):
    assert reason in why_unusable(audio)


def test_quiet_sound_is_usable():
    assert why_unusable(tone(8)) is None


def test_empty_folder_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no recording"):
        find_recordings(tmp_path)


def test_too_little_says_how_much_is_needed_and_names_every_file(tmp_path):
    pytest.importorskip("librosa")
    (tmp_path / "in").mkdir()
    write_audio(tmp_path / "in" / "short.wav", tone(2))
    (tmp_path / "in" / "bad.flac").write_bytes(b"fLaC nothing")
    with pytest.raises(ValueError, match="60 s are needed") as error:
        prepare_takes(tmp_path / "in", tmp_path / "out", "me")
    assert "short.wav" in str(error.value) and "bad.flac" in str(error.value)
