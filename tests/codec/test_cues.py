"""Cue channels: whitened, causal, the same from a file."""

from __future__ import annotations

import pytest
import torch
from tiny_models import plucked_clip

from rtjazz_hf.codec.cues import NUM_NOTES, START_FRAMES, SemitoneCues, log_semitones


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    torch.manual_seed(0)
    return plucked_clip(4.0)


@pytest.fixture(scope="module")
def cues(clip) -> SemitoneCues:
    cues = SemitoneCues(8)
    assert 0 < cues.fit([clip]) <= 1
    return cues


def test_a_frame_sees_nothing_after_its_own_end(clip):
    whole = log_semitones(clip)
    assert whole.shape == (1, 300, NUM_NOTES)
    changed = clip.clone()
    changed[..., 150 * 640 :] = torch.randn_like(changed[..., 150 * 640 :])
    other = log_semitones(changed)
    assert torch.equal(other[:, :150], whole[:, :150])
    assert not torch.allclose(other[:, 150], whole[:, 150])


def test_a_tone_is_loudest_at_its_note():
    time = torch.arange(48_000) / 48_000
    for note in (45, 69, 90):  # one in each window's range
        tone = torch.sin(2 * torch.pi * 440 * 2 ** ((note - 69) / 12) * time)
        spectrum = log_semitones(tone.expand(1, 2, -1) * 0.3)[0, START_FRAMES:].mean(0)
        assert spectrum.argmax() == note - 24


def test_channels_are_white_where_they_were_fitted(cues, clip):
    made = cues(clip)[0, :, START_FRAMES:]  # (cues, frames)
    covariance = made @ made.T / made.shape[1]
    assert torch.allclose(covariance, torch.eye(8), atol=1e-2)
    assert made.mean(1).abs().max() < 1e-3


def test_lengths_that_are_no_whole_frames_are_padded(cues, clip):
    assert cues(clip[..., :1281]).shape == (1, 8, 3)


def test_saved_and_loaded_make_the_same(cues, clip, tmp_path):
    again = SemitoneCues.load(cues.save(tmp_path / "folder" / "cues.safetensors"))
    assert torch.equal(again(clip), cues(clip))
    assert again.fingerprint() == cues.fingerprint() != SemitoneCues(8).fingerprint()


def test_bad_sizes_and_clips_are_refused():
    with pytest.raises(ValueError, match=r"1\.\.92"):
        SemitoneCues(93)
    with pytest.raises(ValueError, match="more or longer"):
        SemitoneCues(4).fit([torch.zeros(1, 2, 6400)])
