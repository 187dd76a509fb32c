"""Chord symbols: every jazz spelling, its notes, and transposition as a group action."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtjazz_hf.music import Chord

# Spellings that mean the same -> semitones above the root.
SPELLINGS = {
    "": (0, 4, 7),
    "maj M": (0, 4, 7),
    "m - min mi": (0, 3, 7),
    "maj7 M7 Δ Δ7 ^7 ^ Maj7 major7 ma7 MA7": (0, 4, 7, 11),
    "maj9 Δ9 M9": (0, 2, 4, 7, 11),
    "maj13": (0, 2, 4, 7, 9, 11),
    "maj7#11 Δ#11 maj7(#11)": (0, 4, 6, 7, 11),
    "maj7#5 +maj7": (0, 4, 8, 11),
    "m7 -7 min7 mi7": (0, 3, 7, 10),
    "m9 -9": (0, 2, 3, 7, 10),
    "m11": (0, 2, 3, 5, 7, 10),
    "m13": (0, 2, 3, 5, 7, 9, 10),
    "m7b5 ø ø7 -7b5 min7b5 m7(b5) h7": (0, 3, 6, 10),
    "ø9 m9b5": (0, 2, 3, 6, 10),
    "dim ° o": (0, 3, 6),
    "dim7 °7 o7": (0, 3, 6, 9),
    "6 maj6": (0, 4, 7, 9),
    "6/9 69 6add9": (0, 2, 4, 7, 9),
    "m6 -6": (0, 3, 7, 9),
    "m69 m6/9": (0, 2, 3, 7, 9),
    "m(maj7) mM7 mMaj7 -Δ -Δ7 -^7 minmaj7": (0, 3, 7, 11),
    "m(maj9) mM9": (0, 2, 3, 7, 11),
    "7 dom7": (0, 4, 7, 10),
    "9": (0, 2, 4, 7, 10),
    "11": (0, 2, 5, 7, 10),
    "13": (0, 2, 4, 7, 9, 10),
    "sus sus4": (0, 5, 7),
    "sus2": (0, 2, 7),
    "7sus 7sus4": (0, 5, 7, 10),
    "9sus 9sus4 sus9": (0, 2, 5, 7, 10),
    "13sus 13sus4": (0, 2, 5, 7, 9, 10),
    "7susb9 7sus4b9 7b9sus4": (0, 1, 5, 7, 10),
    "7alt alt": (0, 1, 3, 4, 6, 8, 10),
    "7b9 7(b9) 7-9 7♭9": (0, 1, 4, 7, 10),
    "7#9 7+9 7♯9": (0, 3, 4, 7, 10),
    "7#11": (0, 4, 6, 7, 10),
    "9#11": (0, 2, 4, 6, 7, 10),
    "7b13": (0, 4, 7, 8, 10),
    "7b5": (0, 4, 6, 10),
    "7b9b13 7(b9,b13)": (0, 1, 4, 7, 8, 10),
    "7b9#9": (0, 1, 3, 4, 7, 10),
    "13b9": (0, 1, 4, 7, 9, 10),
    "13#11": (0, 2, 4, 6, 7, 9, 10),
    "+ aug": (0, 4, 8),
    "7#5 +7 7+ aug7": (0, 4, 8, 10),
    "7#5#9": (0, 3, 4, 8, 10),
    "add9 2": (0, 2, 4, 7),
    "m(add9) madd9": (0, 2, 3, 7),
    "5": (0, 7),
    "(b5)": (0, 4, 6),
}
QUALITIES = [text for line in SPELLINGS for text in (line.split() or [""])]
ROOTS = ["C", "C#", "Db", "D", "Eb", "E♭", "E", "F", "F#", "F♯", "Gb", "G", "Ab", "A", "Bb", "B♭", "B"]

chords = st.builds(
    lambda root, quality, bass: Chord.parse(root + quality + (f"/{bass}" if bass else "")),
    st.sampled_from(ROOTS),
    st.sampled_from(QUALITIES),
    st.sampled_from([None, "C", "F#", "Bb"]),
)


class TestSpellings:
    @pytest.mark.parametrize("line", SPELLINGS, ids=lambda line: line or "major")
    def test_every_spelling_means_its_notes(self, line):
        for quality in line.split() or [""]:
            chord = Chord.parse("C" + quality)
            assert chord.intervals == SPELLINGS[line], quality
            assert chord == Chord.parse("C" + line.split(" ")[0])
            assert (chord.root, chord.bass) == (0, 0)

    @given(chords)
    def test_the_symbol_reads_back_to_the_same_chord_and_symbol(self, chord):
        again = Chord.parse(chord.symbol)
        assert again == chord and again.symbol == chord.symbol
        assert chord.symbol.isascii()

    @pytest.mark.parametrize("text", ["N.C.", "NC", "N.C", "n.c.", " nc "])
    def test_no_chord(self, text):
        assert Chord.parse(text) == Chord.no_chord()
        assert (Chord.no_chord().root, Chord.no_chord().pitch_classes, Chord.no_chord().bass) == (
            None,
            (),
            None,
        )
        assert Chord.no_chord().is_no_chord and Chord.no_chord().transpose(5) == Chord.no_chord()

    def test_slash_bass(self):
        chord = Chord.parse("C6/9/E")
        assert (chord.symbol, chord.root, chord.bass) == ("C69/E", 0, 4)
        foreign = Chord.parse("B♭/C")
        assert foreign.bass == 0 and 0 not in foreign.pitch_classes
        assert Chord.parse("C7/E") != Chord.parse("C7")

    def test_double_accidentals_and_flat_fifths_are_told_apart(self):
        assert Chord.parse("Bbb7").root == 9
        assert Chord.parse("Abb5") == Chord.parse("Ab(b5)")
        assert Chord.parse("Cb").root == 11

    @pytest.mark.parametrize(
        "text",
        ["Hm7", "", " ", "dm7", "C77", "Cfoo", "C/9", "C7/H", "7", "Cmaj7/", "C%", "|", "Cm7b5x", "C7sus5"],
    )
    def test_an_unknown_chord_is_named_with_what_is_understood(self, text):
        with pytest.raises(ValueError, match="unknown chord") as error:
            Chord.parse(text)
        assert repr(text) in str(error.value) and "maj7" in str(error.value)

    def test_what_is_not_text_is_refused(self):
        with pytest.raises(ValueError, match="expected a string"):
            Chord.parse(7)

    @given(st.text(alphabet="ABCDEFGHmajdinsu#b0123456789+-/()Δø°^ ", max_size=12))
    def test_any_text_is_a_chord_or_a_value_error(self, text):
        try:
            chord = Chord.parse(text)
        except ValueError as error:
            assert "chord" in str(error)
        else:
            assert Chord.parse(chord.symbol) == chord


class TestTransposition:
    @given(chords, st.integers(-40, 40), st.integers(-40, 40))
    def test_is_a_group_action(self, chord, first, second):
        assert chord.transpose(0) == chord == chord.transpose(12)
        assert chord.transpose(first).transpose(second) == chord.transpose(first + second)
        assert chord.transpose(first).transpose(-first) == chord

    @given(chords, st.integers(-12, 12), st.sampled_from([None, True, False]))
    def test_moves_every_note_and_keeps_the_quality(self, chord, semitones, sharps):
        moved = chord.transpose(semitones, sharps=sharps)
        assert moved.intervals == chord.intervals and moved.quality == chord.quality
        assert moved.bass == (chord.bass + semitones) % 12
        assert Chord.parse(moved.symbol) == moved
        assert moved.pitch_classes == tuple(sorted(moved.pitch_classes))

    def test_spells_as_asked(self):
        assert Chord.parse("Cm7").transpose(6).symbol == "F#m7"
        assert Chord.parse("C7/E").transpose(1, sharps=False).symbol == "Db7/F"
        assert Chord.parse("C7").transpose(1, sharps=True).symbol == "C#7"
