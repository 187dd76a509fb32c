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
        assert written("C F G") == ["C:2 F:1 G:1"]  # as players mean it
        assert written("3/4 C F G | Am D") == ["C:1 F:1 G:1", "Am:1.5 D:1.5"]
        assert written("Dm7,G7 | C") == ["Dm7:2 G7:2", "C:4"]

    def test_slashes_and_dots_are_beats(self):
        assert written("Dm7 / / G7 | . . . C6 | Am7 . D7 .") == ["Dm7:3 G7:1", "G7:3 C6:1", "Am7:2 D7:2"]
        assert written("Dm7 / G7 | Dm7 /// | //// | Am7///") == ["Dm7:2 G7:2", "Dm7:4", "Dm7:4", "Am7:4"]
        assert written("Dm7 - G7 - | C / / / F / / /") == ["Dm7:2 G7:2", "C:2 F:2"]

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

    @pytest.mark.parametrize(
        "text, bars",
        [
            ("2/4 C F | G", "C:1 F:1, G:2"),
            ("5/4 C F | G", "C:3 F:2, G:5"),
            ("5/4(2+3) C F", "C:2 F:3"),
            ("6/4 C F G", "C:2 F:2 G:2"),
            ("7/4 C F", "C:4 F:3"),
            ("3/8 C | F", "C:1.5, F:1.5"),
            ("6/8 C F | G", "C:1.5 F:1.5, G:3"),
            ("9/8 C F G", "C:1.5 F:1.5 G:1.5"),
            ("12/8 C F", "C:3 F:3"),
            ("2/2 C F", "C:2 F:2"),
            ("𝄵 C F | 𝄴 G", "C:2 F:2, G:4"),
            ("4/4 C | 2/4 F | 3/4 G A B | 7/8 D", "C:4, F:2, G:1 A:1 B:1, D:3.5"),
            ("12/8 C / F /", "C:3 F:3"),
            ("6/8 C / / F / /", "C:1.5 F:1.5"),
        ],
    )
    def test_every_metre_and_changes_of_it(self, text, bars):
        assert ", ".join(written(text)) == bars

    def test_a_first_bar_may_be_short(self):
        chart = parse_chart("G7:1 | C | F")
        assert [str(metre) for metre in chart.metres] == ["1/4", "4/4", "4/4"]

    @pytest.mark.parametrize("text, kinds", [
        ("C | N.C. | (N.C.) | (rest)", "play rest rest rest"),
        ("<C> | C... | C (hold) | C𝄐", "hold hold hold hold"),
        ("(break) C | F", "break play"),
        ("C! | F", "play rest play"),
        ("C F!", "play play rest"),
    ])  # fmt: skip
    def test_rests_holds_breaks_and_stops(self, text, kinds):
        chart = parse_chart(text)
        assert [span.kind for span in chart.spans] == kinds.split()
        assert all(span.chord.is_no_chord == (span.kind == "rest") for span in chart.spans)

    def test_chords_in_brackets_are_alternatives(self):
        text = "C6 | Dm7 G7 (Db7) | C6 | (Em7 A7) | [Eb7] D7"
        assert symbols(text) == ["C6", "Dm7 G7", "C6", "C6", "D7"]
        assert [bar.alternatives for bar in parse_chart(text).written][1:] == [
            ((2, "Db7"),), (), ((0, "Em7 A7"),), ((0, "Eb7"),),
        ]  # fmt: skip
        played = parse_chart(text, alternatives=True)
        assert [[span.chord.symbol for span in bar] for bar in played.bars] == [
            ["C6"], ["Dm7", "Db7"], ["C6"], ["Em7", "A7"], ["Eb7", "D7"],
        ]  # fmt: skip
        assert parse_chart("alternatives: yes\n" + text).bars == played.bars

    def test_a_slot_in_brackets_is_an_alternative_too(self):
        text = "Cmaj7(Am7),(D7) | C6,(Dm7),C6,G13 | F6,(Gm7)"
        chart = parse_chart(text)
        assert symbols(text) == ["Cmaj7", "C6 C6 G13", "F6"]
        assert [span.beats for span in chart.bars[1]] == [2, 1, 1]
        assert chart.written[0].alternatives == ((1, "Am7"), (1, "D7"))

    def test_a_bass_alone_goes_under_the_chord_before(self):
        assert symbols("C | /B | Am7 W/G | /F#") == ["C", "C/B", "Am7 Am7/G", "Am7/F#"]


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
            ("C | F :| G", "C F C F G"),
            ("|: C :| F :| G", "C C F F G"),
            ("[: C | F :] G", "C F C F G"),
            ("{ C | F } G", "C F C F G"),
            ("𝄆 C | F 𝄇 G", "C F C F G"),
            ("|: C :|: F :| G", "C C F F G"),
            ("|: C | F :| 3x | G", "C F C F C F G"),
            ("|: C | F :| (x3) G", "C F C F C F G"),
            ("|: C | F :| [x2] | G", "C F C F G"),
            ("|: C :| 3 times", "C C C"),
            ("C | F x2\nG", "C F C F G"),
            ("C | F [x2]\nG", "C F C F G"),
            ("C | F | %% | G", "C F C F G"),
            ("C | F | r | 𝄏", "C F C F C F"),
            ("C | 𝄎 | x | ./.", "C C C C"),
            ("|: C |[1,3 F :|[2,4 G :| A", "C F C G C F C G A"),
            ("|: C |[1-2 F :|[3 G | A", "C F C F C G A"),
            ("|: C | [1. F | [2. G |", "C F C G"),
            ("|: C | 1st ending F :| 2nd ending G |", "C F C G"),
            ("C :|", "C C"),
            ("|: C | [1 F :| [2 G :|", "C F C G"),
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
            "|: C |: D :|",
            "|: :|",
            "|: C |[1 F :|",
            "|: C |[1 F :| G",
            "C [1 D",
            "|: C |[2 D :|",
            "|: C :| :|",
            "|: C |[1 F :|[3 G |",
            "|: C |[1 F :|[2 G || A :|",
            "|: C |[1 F :| |: G :|[2 A |",
        ],
    )
    def test_an_unbalanced_repeat_is_refused(self, text):
        with pytest.raises(ValueError, match="unbalanced repeat"):
            parse_chart(text)


class TestForm:
    @pytest.mark.parametrize(
        "text, bars",
        [
            ("C | F | G | D.C.", "C F G C F G"),
            ("C | F [Fine] | G | D.C. al Fine", "C F G C F"),
            ("C | Fine F | G | [DC al Fine]", "C F G C F"),
            ("C | [Segno] F | G Fine | A | D.S. al Fine", "C F G A F G"),
            ("C | 𝄋 F | G To Coda | A | D.S. al Coda | [Coda] B", "C F G A F G B"),
            ("C | F | G 𝄌 | A | D.C. al Coda | 𝄌 B | C", "C F G A C F G B C"),
            ("C | F to ⊕ | A | Da Capo al Coda || Coda: B", "C F A C F B"),
            ('C | F "To Coda" | A | "D.C. al Coda"\nCoda\nB', "C F A C F B"),
            ("|: C | F :| G To Coda | A | D.C. al Coda | [Coda] B", "C F C F G A C F G B"),
            ("|: C |[1 F :|[2 G To Coda || A | D.C. al Coda | [Coda] B", "C F C G A C G B"),
            ("|: C |[1 F :|[2 G || A | D.C. al 2nd ending", "C F C G A C G"),
            ("|: C :| F Fine | A | D.C. al Fine with repeats", "C C F A C C F"),
            ("C | F 𝄌 | A | 𝄌 B", "C F A C F B"),  # no D.C.: the coda ends a second chorus
            ("C | F To Coda | A | D.C. al Coda | B", "C F A C F B"),  # the coda is what comes after
            ("C | F | G | D.C. al Coda | [Coda] B", "C F G C F G B"),
        ],
    )
    def test_jumps_are_written_out(self, text, bars):
        assert symbols(text) == bars.split()

    @pytest.mark.parametrize(
        "text, message",
        [
            ("C | F | D.S.", "no segno is marked"),
            ("C | F | D.C. al Fine", "no Fine is marked"),
            ("C | F | D.C. al Coda", "no coda is marked"),
            ("C | F To Coda | G", "no coda is marked"),
            ("C | F | D.C. al 2nd ending", "no ending 2 is marked"),
            ("D.C. | C", "stands after a bar"),
            ("C D.C. D.S. | F", "goes back twice"),
            ("C | F | [Coda]", "no bar follows"),
        ],
    )
    def test_what_cannot_be_played_is_refused_with_its_bar(self, text, message):
        with pytest.raises(ValueError, match=message):
            parse_chart(text)

    @pytest.mark.parametrize(
        "text, labels",
        [
            ("[A] C | F | [B] G", "0 A, 2 B"),
            ("A: C | F\nB: G | A", "0 A, 2 B"),
            ("A: | C | F |\nB: | G |", "0 A, 2 B"),
            ("A\n| C | F |\nB\n| G |", "0 A, 2 B"),
            ("(A) C | F", "0 A"),
            ("[Intro] C | [Verse 1] F | [Bridge] G", "0 Intro, 1 Verse 1, 2 Bridge"),
            ("Intro:\nC | F\nSolos\nG", "0 Intro, 2 Solos"),
            ("[Last time only] C", "0 Last time only"),
            ("|: [A] C | F :| [B] G", "0 A, 2 A, 4 B"),
        ],
    )
    def test_sections_have_any_name(self, text, labels):
        assert ", ".join(f"{bar} {name}" for bar, name in parse_chart(text).labels) == labels

    @pytest.mark.parametrize("text", ["A\nB\nC", "C | F\nla la la\nG", "1 | C | F\n5 | G | A", "17) | C |"])
    def test_no_line_is_swallowed(self, text):
        chart = parse_chart(text)
        letters = {span.chord.symbol for span in chart.spans}
        lines = [line for line in text.splitlines() if line != "la la la"]
        assert letters >= {line.strip() for line in lines if len(line) == 1}
        assert ("la la la" in text) == any("line 2 was not read: 'la la la'" in remark for remark in chart.remarks)

    def test_common_time_is_no_chord_without_a_word(self):
        assert "common time" in " ".join(parse_chart("C Dm7 | G7 | Am").remarks)
        assert not parse_chart("C Dm7 | G7 C | Am").remarks


class TestHeader:
    def test_fields(self):
        chart = parse_chart(
            "# a comment\ntitle: A Tune\ncomposer: Me\nkey: G minor\ntempo: 96\ntime: 3/4\nstyle: jazz waltz\n"
            "swing: 60%\nform: AABA\nGm7 | C7"
        )
        assert (chart.title, chart.composer, chart.key, chart.tempo) == ("A Tune", "Me", "Gm", 96)
        assert (str(chart.metre), chart.style, chart.swing) == ("3/4", "jazz waltz", 0.6)
        assert chart.remarks == ("form: AABA",) and chart.num_beats == 6

    def test_words_as_people_paste_them(self):
        chart = parse_chart("A Made-up Tune\nby Nobody\nMedium Swing, 132 bpm, key of Gm\n\nA\n| Cm7 | F7 |")
        assert (chart.title, chart.composer, chart.tempo, chart.key) == ("A Made-up Tune", "Nobody", 132, "Gm")
        assert chart.style == "Medium Swing" and chart.labels == ((0, "A"),)
        assert parse_chart("A Tune\n(♩ = 180)\n5/4\nC | F").tempo == 180
        assert str(parse_chart("A Tune\n5/4\nC | F").metre) == "5/4"

    def test_collections_of_text_files(self):
        chart = parse_chart("Title = Made Up\nDB Key = F\nTimeSig = 3 4\nBars = 4\n FM7 | F#o | Gm7 | C7 |")
        assert (chart.title, chart.key, str(chart.metre), len(chart.bars)) == ("Made Up", "F", "3/4", 4)

    def test_other_names_of_notes(self):
        assert symbols("notation: german\nH7 | B7 | Fis°") == ["B7", "Bb7", "F#dim"]
        assert symbols("notation: solfege\nDo | Sol7 | La-7") == ["C", "G7", "Am7"]

    @pytest.mark.parametrize("line", ["tempo: 900", "key: H", "time: 7/5", "notation: roman", "swing: 7"])
    def test_wrong_values_are_refused(self, line):
        with pytest.raises(ValueError, match=r"tempo|key|metre|notation|swing"):
            parse_chart(f"{line}\nC | F")


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
            ("7/5 C", r"7/5: choose 2/4, 3/4"),
            ("0/4 C", r"0/4"),
            ("C | D 7/4", r"bar 2 .*metre stands at the beginning"),
            ("[A7] | C", "only chords in brackets"),
            ("C x2 | D", "end of a line"),
            ("|: C x2\nD :|", "write '|: .. :. x2'"),
            ("%", "no bar before it"),
            ("C % D", "mixes '%'"),
            ("/ / C C", "no chord sounds"),
            ("C / D / E", "needs 4"),
            ("C r", "mixes 'r'"),
            ("C | r", "no two bars before it"),
            ("C | | D", "bar 2 .*is empty"),
            ("C D E F G A B C D", "at most 8"),
            ("C:2 D", "name their beats"),
            ("C:2 D:3", "fill 4 beats"),
            ("C:2", "fill 4 beats"),
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

    @pytest.mark.parametrize("beats_per_bar", [0, 16, 2.3, -1, True, "4"])
    def test_other_metres_are_refused(self, beats_per_bar):
        with pytest.raises(ValueError, match="choose 3"):
            parse_chart("C", beats_per_bar)

    def test_two_metres_are_refused(self):
        with pytest.raises(ValueError, match="3/4 but beats_per_bar=4"):  # a chart that never is in four
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

    @given(
        st.lists(
            st.sampled_from(
                ["C", "Dm7", "|", "|:", ":|", " ", "\n", "[1", "[2", "D.C.", "Coda", "To Coda", "Fine", "6/8",
                 "5/4", "%",
                 "%%", "/", "x2", "(A7)", "[A]", "<", "C!", "N.C.", "3", "(", ")", "[", "]", "al Fine", "D.S. al Coda",
                 "Segno", "(break)", "A:", "r", "key: G", ":2", "."]
            ),
            max_size=14,
        ).map(" ".join)
        | st.text(alphabet="CFm7|:%/.[]12x \n3", max_size=40)
    )  # fmt: skip
    def test_any_text_is_a_chart_or_a_value_error(self, text):
        try:
            chart = parse_chart(text)
        except ValueError:
            return
        assert 1 <= len(chart.bars) <= MAX_BARS
        for bar in chart.bars:
            assert sum(span.beats for span in bar) > 0
        for bar, metre in zip(chart.bars, chart.metres, strict=True):
            assert sum(span.beats for span in bar) == pytest.approx(metre.beats)
        again = parse_chart(chart.to_text())
        assert again.spans == chart.spans and again.metres == chart.metres


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
    assert chart.beats_per_bar == beats_per_bar and chart.remarks in ((), chart.remarks)
    assert [span.chord for span in chart.spans] == [span.chord for span in spans]
    assert [span.beats for span in chart.spans] == pytest.approx([span.beats for span in spans])


def test_a_chord_over_a_bar_line_is_written_in_both_bars():
    spans = (ChordSpan(Chord.parse("C"), 6.0), ChordSpan(Chord.parse("F"), 2.0))
    assert format_chart(spans, 4) == "4/4 C | C F"


class TestCommas:
    """Collections of changes that have commas between the parts of a bar."""

    def beats(self, text):
        return [(span.chord.symbol, span.beats) for span in parse_chart(text).bars[0]]

    def test_nothing_between_commas_is_a_beat(self):
        assert self.beats("Bb6,,C-7,F7") == [("Bb6", 2.0), ("Cm7", 1.0), ("F7", 1.0)]
        assert self.beats("G7,Ab7,G7,") == [("G7", 1.0), ("Ab7", 1.0), ("G7", 2.0)]
        assert self.beats("Dm7, G7") == self.beats("Dm7,G7") == [("Dm7", 2.0), ("G7", 2.0)]

    def test_an_alternative_at_a_chord(self):
        assert self.beats("C^7(A-7)") == [("Cmaj7", 4.0)]
        assert self.beats("D^7(F#-7),,Eb7,D") == [("Dmaj7", 2.0), ("Eb7", 1.0), ("D", 1.0)]
        assert self.beats("alternatives: yes\nC^7(A-7),G7(Db7(#11))") == [("Am7", 2.0), ("Db7#11", 2.0)]
        assert self.beats("C7(b9)") == [("C7b9", 4.0)]
