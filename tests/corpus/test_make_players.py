"""The players for the test of personal styles: their files are such as people have."""

from __future__ import annotations

import numpy as np
import pytest
from scripts import load_script
from synthetic_takes import played

from rtjazz_hf.audio import read_audio

make_players = load_script("make_players")


@pytest.mark.parametrize(("suffix", "rate", "channels"), make_players.FILES)
def test_a_minute_in_every_format_is_read_as_it_was(suffix, rate, channels, tmp_path):
    audio = np.tile(played(), 2)[:, : 60 * 48_000]
    make_players.write_take(tmp_path / f"take.{suffix}", audio, rate, channels)
    read = read_audio(tmp_path / f"take.{suffix}")
    assert abs(read.shape[1] - audio.shape[1]) < 4_000
    whole = audio if channels == 2 else audio.mean(0)
    assert abs(np.std(read) / np.std(whole) - 1) < 0.2
