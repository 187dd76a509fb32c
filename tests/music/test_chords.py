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
    "Madd9 maj(add9) Maj(add9)": (0, 2, 4, 7),
    "Maddb9": (0, 1, 4, 7),
    "°(addM7) dim(addM7)": (0, 3, 6, 11),
    "dim7(addM7) o7M7": (0, 3, 6, 9, 11),
    "aug9M7 +9M7": (0, 2, 4, 8, 11),
    "67": (0, 4, 7, 9, 10),
    "m/ma7": (0, 3, 7, 11),
    "dom": (0, 4, 7, 10),
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
# Dialects further off: each spelling is the chord that stands before it.
DIALECTS = {
    "Edim7": "E07 E°7 Eo7 Eº7 E⁰7 EDIM7",
    "Bdim": "B0 B° Bdim. Bo",
    "Cm#5": "Cm+ Cmaug C-#5 Cmin#5 Cm(#5) Cm(5+)",
    "CmM7": "Cm/maj7 C-/Maj7 Cm(M7) Cm+7 Cm#7 Cm7M Cm(maj7) CmiMA7 Cmin/maj7 C:minmaj7",
    "Cm7b5": "Ch Ch7 C∅7 C∅ CØ Chalfdim Cm7(5-) Cm7(b5) Cmi7(-5) C-7b5 C:hdim7 Cmin7-5 CMI7b5",
    "Cm9b5": "Ch9 Cø9 C∅9",
    "Cmaj7": "C7M C△ C∆7 CΔ⁷ CMAJ7 CMa7 C:maj7 CMaj.7",
    "Cmaj9": "CM7(9) Cmaj7/9 CΔ9 C9M C:maj9",
    "Cm7": "CMI7 CMIN7 CMi7 CMin7 C−7 C:min7 Cmin.7",
    "C9": "C7/9 C7(9) C7add9 Cdom9 C:9",
    "C13": "C13/9 C13(9) C9/13 C9(13)",
    "C7sus4": "C:sus4(b7) C7/4 C7(4) Csus7 C7SUS C7sus.",
    "Csus4": "C4 C(4) CSUS C:sus4",
    "Cmadd11": "Cm4 Cm(4) Cm(add11)",
    "C7#5": "C7(5+) C7(#5) C7(+5) C7+ C+7 C7aug",
    "C7b9": "C7(9-) C7(-9) C7/b9 C7(b9)",
    "C7#9": "C7(9+) C7(+9) C7/#9",
    "C7b9b13": "C7(b9/b13) C7(b9,b13) C7/b9/b13 C7(b9)(b13) C7[b9,b13]",
    "C7alt": "C7alt. Calt Calt. C7altered",
    "C69": "C6/9 C6(9) CM6/9 C6add9",
    "Caug": "C+ C5+ C+5 CAUG C:aug",
    "C(b5)": "C5- C-5 Cmajb5 CMb5",
    "C(#5)add9": "CM#5add9",
    "F7alt": "Falt F7alt.",
    "Faug": "F+ Faug",
    "C5": "C(omit3) C(no3) Cno3 Comit3 C:5",
    "C7sus4add3": "C7susadd3",
    "Bbsus4": "Bb4 B♭4",
    "C/G": "C/g C\\G C:maj/5",
    "Cm7/Bb": "C:min7/b7 C-7/Bb Cm7/bb",
    "N.C.": "(N.C.) NC n.c. N",
    "G7": "Sol7 SOL7 G:7",
    "Am7": "Lam7 LA-7",
    "F#": "Fa# Fa♯",
    "/C": "W/C",
}
QUALITIES = [text for line in SPELLINGS for text in (line.split() or [""])]
ROOTS = ["C", "C#", "Db", "D", "Eb", "E♭", "E", "F", "F#", "F♯", "Gb", "G", "Ab", "A", "Bb", "B♭", "B"]

def _notes(symbol):
    chord = Chord.parse(symbol)
    return chord.root, chord.pitch_classes, chord.bass


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

    @pytest.mark.parametrize("meant", DIALECTS)
    def test_every_dialect_means_the_chord(self, meant):
        for text in DIALECTS[meant].split():
            chord = Chord.parse(text)
            assert (chord.root, chord.pitch_classes, chord.bass) == _notes(meant), text
            assert Chord.parse(chord.symbol) == chord

    @pytest.mark.parametrize(
        "notation, pairs",
        [
            ("german", "H7=B7 B7=Bb7 Fis-7=F#m7 Es=Eb Esus4=Esus4 As7=Ab7 Cis°=C#dim C/H=C/B B/As=Bb/Ab"),
            ("solfege", "Do=C Do7=C7 Sol7=G7 Réb=Db Mi-7=Em7 Sib7/Fa=Bb7/F La°=Adim"),
            ("letters", "Do=Ddim Do7=Ddim7 B7=B7"),
        ],
    )
    def test_other_names_of_notes_by_a_setting(self, notation, pairs):
        for pair in pairs.split():
            text, meant = pair.split("=")
            assert Chord.parse(text, notation) == Chord.parse(meant), text

    def test_german_names_are_hinted_at_and_other_notations_refused(self):
        with pytest.raises(ValueError, match="notation: german"):
            Chord.parse("H7")
        with pytest.raises(ValueError, match="choose from letters, german"):
            Chord.parse("C", "roman")

    def test_a_bass_alone_goes_under_another_chord(self):
        bass = Chord.parse("/E")
        assert bass.is_bass_alone and (bass.root, bass.pitch_classes, bass.bass) == (4, (4,), 4)
        assert bass.transpose(1) == Chord.parse("/F") and Chord.parse("W/F#") == Chord.parse("/F#")
        assert Chord.parse("C7").over("E") == Chord.parse("C7/E")
        assert Chord.parse("C7/E").over("C") == Chord.parse("C7")
        assert Chord.parse("C69/E").over("G") == Chord.parse("C69/G")
        assert Chord.no_chord().over("E") == Chord.no_chord()

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
