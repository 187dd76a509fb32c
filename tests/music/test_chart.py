"""Chord charts as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtjazz_hf.music import Chord, ChordSpan, parse_chart
from rtjazz_hf.music.chart import MAX_BARS, format_chart


def written(text, beats_per_bar=None):
    """The chart as one string a bar: chord and beats."""
    chart = parse_chart(text, beats_per_bar)
    return [" ".join(f"{span.chord}:{span.beats:g}" for span in bar) for bar in chart.bars]


def symbols(text):
    return [" ".join(span.chord.symbol for span in bar) for bar in parse_chart(text).bars]


class TestBars:
    def test_the_chart_of_the_readme(self):
        assert written("Dm7 | G7 | Cmaj7 | %") == ["Dm7:4", "G7:4", "Cmaj7:4", "Cmaj7:4"]

    def test_several_chords_share_a_bar_evenly(self):
        assert written("Dm7 G7 | C Am Dm G") == ["Dm7:2 G7:2", "C:1 Am:1 Dm:1 G:1"]
        assert [span.beats for span in parse_chart("C F G").spans] == [4 / 3] * 3

    def test_slashes_and_dots_are_beats(self):
        assert written("Dm7 / / G7 | . . . C6 | Am7 . D7 .") == ["Dm7:3 G7:1", "G7:3 C6:1", "Am7:2 D7:2"]

    def test_chords_may_name_their_beats(self):
        assert written("Dm7:1.5 G7:2.5 | C6/9:4") == ["Dm7:1.5 G7:2.5", "C69:4"]

    def test_slash_chords_no_chord_and_unicode(self):
        assert written("C/E | N.C. | B♭Δ/D | F♯ø") == ["C/E:4", "N.C.:4", "Bbmaj7/D:4", "F#m7b5:4"]

    @pytest.mark.parametrize(
        "text",
        [
            "C | F",
            "| C | F |",
            "C\nF",
            "C |\n| F ||",
            "\n\nC|\n\n F \n",
            "[A] C | [B] F |]",
            "C || F ||",
            "C|F",
        ],
    )
    def test_layout_does_not_matter(self, text):
        assert symbols(text) == ["C", "F"]

    def test_metres(self):
        assert written("3/4 Dm7 | G7 / C7") == ["Dm7:3", "G7:2 C7:1"]
        assert written("C F", 3) == ["C:1.5 F:1.5"]
        assert parse_chart("4/4 C", 4).beats_per_bar == 4
        assert parse_chart("3/4|C|F").num_beats == 6


class TestRepeats:
    @pytest.mark.parametrize(
        "text, bars",
        [
            ("|: C | F :|", "C F C F"),
            ("||: C | F :|| G", "C F C F G"),
            ("|:C|F:| x3 G", "C F C F C F G"),
            ("A | |: C :| D", "A C C D"),
            ("|: C | F :|\n|: G :|", "C F C F G G"),
            ("|: C | F |[1 G :|[2 A |", "C F G C F A"),
            ("|: C | F | [1 G | G :| [2 A | B ||\nD", "C F G G C F A B D"),
            ("|: C |1. F :|2. G |", "C F C G"),
            ("|: [1 C :|[2 G |", "C G"),
            ("|: C | % :|", "C C C C"),
        ],
    )
    def test_are_written_out(self, text, bars):
        assert symbols(text) == bars.split()

    @given(st.lists(st.sampled_from(["C", "Dm7", "G7 C7", "%"]), min_size=1, max_size=8), st.integers(1, 9))
    def test_n_times_is_the_body_n_times(self, body, times):
        text = " | ".join(["F", *body])
        plain = parse_chart(text).bars
        assert parse_chart(f"|: {text} :| x{times}").bars == plain * times

    @pytest.mark.parametrize(
        "text",
        [
            "|: C",
            "C :|",
            "|: C |: D :|",
            "|: :|",
            "|: C |[1 F :|",
            "|: C |[1 F :| G",
            "C [1 D",
            "|: C |[2 D :|",
            "|: C :| :|",
            "|: C | [1 F :| [2 G :|",
            "|: C |[1 F :| |: G :|[2 A |",
        ],
    )
    def test_an_unbalanced_repeat_is_refused(self, text):
        with pytest.raises(ValueError, match="unbalanced repeat"):
            parse_chart(text)


class TestErrors:
    @pytest.mark.parametrize(
        "text, message",
        [
            ("", "empty chart"),
            (" \n ", "empty chart"),
            ("|||", "empty chart"),
            ("4/4", "empty chart"),
            ("Hm7", r"bar 1 .*'Hm7'"),
            ("C | F | Hm7 G", r"bar 3 .*'Hm7'"),
            ("7/4 C", r"7/4: choose 3/4 or 4/4"),
            ("6/8 C", r"6/8"),
            ("C | 7/4 D", r"bar 2 .*metre stands at the start"),
            ("%", "no bar before it"),
            ("C % D", "mixes '%'"),
            ("/ / C C", "no chord sounds"),
            ("C / D", "needs 4"),
            ("C | | D", "bar 2 .*is empty"),
            ("C D E F G A B C D", "at most 8"),
            ("C:2 D", "name their beats"),
            ("C:2 D:3", "fill 4 beats"),
            ("C:x", "'C:x'"),
            ("C ]", r"unexpected '\]'"),
            ("|: C :| x600", "at most|more than|expected 1 to 512"),
            ("|: C | C :| x300", "more than 512 bars"),
            ("| C " * 513, "more than 512 bars"),
            ("C " * 30000, "characters"),
        ],
    )
    def test_say_where_and_what_is_allowed(self, text, message):
        with pytest.raises(ValueError, match=message):
            parse_chart(text)

    @pytest.mark.parametrize("beats_per_bar", [7, 0, 2, True, "4"])
    def test_other_metres_are_refused(self, beats_per_bar):
        with pytest.raises(ValueError, match="choose 3"):
            parse_chart("C", beats_per_bar)

    def test_two_metres_are_refused(self):
        with pytest.raises(ValueError, match="3/4 but beats_per_bar=4"):
            parse_chart("3/4 C", 4)

    @pytest.mark.parametrize("text", [None, 5, ["C"]])
    def test_what_is_not_text_is_refused(self, text):
        with pytest.raises(ValueError, match="empty chart"):
            parse_chart(text)

    @pytest.mark.parametrize("beats", [0, -1, float("nan"), float("inf")])
    def test_a_span_lasts_some_time(self, beats):
        with pytest.raises(ValueError, match="beats"):
            ChordSpan(Chord.parse("C"), beats)
        with pytest.raises(ValueError, match="needs a Chord"):
            ChordSpan("C", 4)

    @given(st.text(alphabet="CFm7|:%/.[]12x \n3", max_size=40))
    def test_any_text_is_a_chart_or_a_value_error(self, text):
        try:
            chart = parse_chart(text)
        except ValueError:
            return
        assert 1 <= len(chart.bars) <= MAX_BARS
        for bar in chart.bars:
            assert sum(span.beats for span in bar) == pytest.approx(chart.beats_per_bar)


bars = st.lists(
    st.lists(
        st.sampled_from(["C", "Dm7", "G7alt", "F#m7b5", "Bb/C", "N.C.", "C69"]), min_size=1, max_size=4
    ).flatmap(
        lambda row: st.tuples(
            st.just(row), st.lists(st.sampled_from([0.5, 1, 2, 3]), min_size=len(row), max_size=len(row))
        )
    ),
    min_size=1,
    max_size=8,
)


@given(bars, st.sampled_from([3, 4]))
def test_formatted_charts_read_back(rows, beats_per_bar):
    spans = tuple(
        ChordSpan(Chord.parse(symbol), weight * beats_per_bar / sum(weights))
        for row, weights in rows
        for symbol, weight in zip(row, weights)
    )
    chart = parse_chart(format_chart(spans, beats_per_bar))
    assert chart.beats_per_bar == beats_per_bar
    assert [span.chord for span in chart.spans] == [span.chord for span in spans]
    assert [span.beats for span in chart.spans] == pytest.approx([span.beats for span in spans])


def test_a_chord_over_a_bar_line_is_written_in_both_bars():
    spans = (ChordSpan(Chord.parse("C"), 6.0), ChordSpan(Chord.parse("F"), 2.0))
    assert format_chart(spans, 4) == "4/4 C | C F"
