"""Files that are of no use, each with its name, and copies that are found."""

from __future__ import annotations

import numpy as np
import pytest
from external_sources import BAD, SECONDS, sound, write

from rtjazz_hf.audio import SAMPLE_RATE, measure_loudness
from rtjazz_hf.corpus.screening import (
    FINGERPRINTS,
    LOUDNESS,
    KnownRecordings,
    Unusable,
    best_fingerprint,
    fingerprint_of,
    pack_prints,
    screen,
    unpack_prints,
)

pytest.importorskip("pyloudnorm")


def row(path=None, data=None, start=None, end=None):
    return {"audio": {"path": path and str(path), "bytes": data}, "start": start, "end": end}


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "no beat or pitch"])
def test_every_kind_of_bad_file_has_its_name(tmp_path, kind):
    path = tmp_path / "a.wav"
    BAD[kind](path, 1)
    with pytest.raises(Unusable) as error:
        screen(row(path), "spectral")
    assert error.value.kind == kind
    assert str(tmp_path) not in str(error.value)  # the same wherever it lies


def test_mono_is_doubled_and_told(tmp_path):
    heard = screen(row(write(tmp_path / "a.wav", sound(1)[:1])), "spectral")
    assert heard.mono and heard.audio.shape == (2, SECONDS * SAMPLE_RATE)
    assert np.array_equal(heard.audio[0], heard.audio[1])


def test_loudness_is_brought_to_one_level(tmp_path):
    levels = [screen(row(write(tmp_path / "a.wav", gain * sound(1))), "spectral") for gain in (0.3, 1.0)]
    assert levels[1].loudness - levels[0].loudness == pytest.approx(10.46, abs=0.1)
    for heard in levels:
        assert (
            measure_loudness(heard.audio) == pytest.approx(LOUDNESS, abs=0.3)
            or np.abs(heard.audio).max() > 0.9
        )


def test_bytes_are_read_as_their_file_is(tmp_path):
    path = write(tmp_path / "a.flac", sound(1))
    assert np.array_equal(
        screen(row("a.flac", path.read_bytes()), "spectral").audio, screen(row(path), "spectral").audio
    )


def test_part_of_a_track_is_cut_and_a_clip_is_not(tmp_path):
    track, clip = write(tmp_path / "a.wav", sound(1, 24.0)), write(tmp_path / "b.wav", sound(1, 10.0))
    heard = screen(row(track, start=8, end=18), "spectral")
    assert heard.cut and heard.seconds == pytest.approx(10)
    assert not screen(row(clip, start=30, end=40), "spectral").cut


@pytest.mark.parametrize("kind", FINGERPRINTS)
class TestCopies:
    @pytest.fixture
    def known(self, kind):
        if kind == "chromaprint" and best_fingerprint() != kind:
            pytest.skip("pip install 'rtjazz-hf[scale]'; apt-get install libchromaprint1")
        known = KnownRecordings()
        for number in range(8):
            known.add(f"take {number}", f"hash {number}", fingerprint_of(sound(number, 12.0), kind))
        return known

    def test_coded_anew_quieter_and_from_later_on(self, known, kind, tmp_path):
        path = write(tmp_path / "a.mp3", 0.4 * sound(3, 12.0)[:, SAMPLE_RATE:], format="MP3")
        heard = screen(row(path), kind)
        assert known.copy_of(heard.content, heard.prints) == ("same recording", "take 3")

    def test_the_same_samples(self, known, kind):
        assert known.copy_of("hash 5", fingerprint_of(sound(20), kind)) == ("duplicate", "take 5")

    def test_other_music_is_no_copy(self, known, kind):
        for number in range(8, 16):
            assert known.copy_of("another", fingerprint_of(sound(number, 12.0), kind)) is None

    def test_fingerprints_can_be_kept_as_text(self, known, kind):
        prints = fingerprint_of(sound(1), kind)
        assert np.array_equal(unpack_prints(pack_prints(prints)), prints)
