"""Metres: their length, their felt beats, and how chords share a bar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtjazz_hf.music.metre import MOST_BEATS, Metre

metres = st.builds(Metre, st.integers(1, MOST_BEATS), st.sampled_from([2, 4, 8, 16]))


@given(metres)
def test_felt_beats_fill_the_bar_and_clicks_are_among_them(metre):
    at = 0.0
    for start, length, place, size in metre.pulses:
        assert start == pytest.approx(at) and length > 0 and 0 <= place < size
        at += length
    assert at == pytest.approx(metre.beats) and metre.clicks[0] == 0.0
    assert set(metre.clicks) <= {start for start, _, _, _ in metre.pulses}


@given(metres, st.integers(1, 8))
def test_chords_fill_the_bar_and_the_first_is_no_shorter_than_the_mean(metre, chords):
    parts = metre.share(chords)
    assert len(parts) == chords and sum(parts) == pytest.approx(metre.beats) and min(parts) > 0


@given(metres)
def test_the_name_reads_back(metre):
    assert Metre.parse(str(metre)) == metre


@pytest.mark.parametrize(
    "text, beats, groups",
    [
        ("4/4", 4, (4,)), ("C", 4, (4,)), ("𝄵", 4, (2,)), ("C|", 4, (2,)), ("6/8", 3, (3, 3)),
        ("12/8", 6, (3, 3, 3, 3)),
        ("5/4", 5, (3, 2)), ("5/4(2+3)", 5, (2, 3)), ("2+3/4", 5, (2, 3)), ("7/4", 7, (4, 3)), ("3/8", 1.5, (3,)),
        (" 9 / 8 ", 4.5, (3, 3, 3)), ("7/8(3+2+2)", 3.5, (3, 2, 2)),
    ],
)  # fmt: skip
def test_spellings(text, beats, groups):
    metre = Metre.parse(text)
    assert (metre.beats, metre.groups) == (beats, groups)


@pytest.mark.parametrize("text", ["", "4", "4/5", "0/4", "16/4", "5/4(2+2)", "x/y", None, "4/4/4"])
def test_what_is_no_metre_is_refused(text):
    with pytest.raises(ValueError, match=r"metre|does not fall"):
        Metre.parse(text)


def test_three_chords_are_shared_as_players_mean_it():
    assert Metre(4, 4).share(3) == (2, 1, 1) and Metre(3, 4).share(2) == (1.5, 1.5)
    assert Metre(5, 4).share(2) == (3, 2) and Metre(7, 4).share(3) == (2, 2, 3)
    assert Metre(12, 8).share(3) == (3, 1.5, 1.5) and Metre(12, 8).is_compound and not Metre(4, 4).is_compound
