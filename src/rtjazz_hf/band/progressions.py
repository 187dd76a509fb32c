"""Phrases of original progressions in the idiom of each genre.

All are in C major or C minor, two or more bars long, and are transposed when a form is written.
"""

from __future__ import annotations

BLUES_OPENING = (
    "C7 | F7 | C7 | %",
    "C7 | F7 | C7 | Gm7 C7",
    "C7 | F7 F#dim7 | C7/G | Gm7 C7",
    "C7 | % | % | C9",
    "C7 | F9 | C7 Db7 | C7",
    "C13 | F13 | C13 | Gm9 Gb7#11",
)
BLUES_MIDDLE = (
    "F7 | % | C7 | %",
    "F7 | F#dim7 | C7/G | A7alt",
    "F7 | F#dim7 | C7 | Em7b5 A7b9",
    "F9 | Bb9 | C7 | Em7 A7",
    "F7 | Fm7 Bb7 | C7 | Em7 Ebm7",
    "F13 | % | C13 | A7#9",
)
BLUES_CADENCE = (
    "G7 | F7 | C7 | G7",
    "Dm7 | G7 | C7 A7 | Dm7 G7",
    "Dm7 | G7alt | Em7 A7 | Dm7 G7",
    "Ab7 | G7 | C7 | G7#9",
    "Dm7 | Db7#11 | C7 Eb7 | Ab7 Db7",
    "D9 | G9 | C13 A7#5 | D9 G7#5",
)
BIRD_BLUES = (
    "Cmaj7 | Bm7b5 E7b9 | Am7 D7 | Gm7 C7",
    "Fmaj7 | Fm7 Bb7 | Em7 A7 | Ebm7 Ab7",
    "Dm7 | G7 | Em7 A7 | Dm7 G7",
)
MINOR_BLUES_OPENING = (
    "Cm7 | % | % | C7alt",
    "Cm7 | Fm7 | Cm7 | %",
    "Cm6 | Dm7b5 G7alt | Cm7 | Gm7b5 C7b9",
    "Cm7 | G7#9 | Cm7 | C7b9",
)
MINOR_BLUES_MIDDLE = (
    "Fm7 | % | Cm7 | %",
    "Fm7 | Bb9 | Cm7 | Am7b5",
    "Fm9 | % | Cm9 | Bb7 A7",
    "Fm7 | Fm6 | Cm7 | Ebm7 Ab7",
)
MINOR_BLUES_CADENCE = (
    "Ab7 | G7alt | Cm7 | G7#9",
    "Dm7b5 | G7b9 | Cm7 | Dm7b5 G7alt",
    "Abmaj7 | G7#9 | Cm7 | %",
    "Ab13 | G7#5 | Cm6 | Eb7 Ab7",
)

RHYTHM_FIRST_HALF = (
    "C6 A7 | Dm7 G7 | Em7 A7 | Dm7 G7",
    "C6 C#dim7 | Dm7 D#dim7 | Em7 A7 | Dm7 G7",
    "C6 Am7 | Dm7 G7 | C6 Am7 | Dm7 G7",
    "C6 Eb7 | Dm7 Db7 | Em7 Eb7 | Dm7 G7",
    "Cmaj7 A7b9 | D7 G7 | Em7 A7 | D9 G7b9",
)
RHYTHM_SECOND_HALF = (
    "C7 | F6 F#dim7 | Em7 A7 | Dm7 G7",
    "Gm7 C7 | Fmaj7 Fm6 | Em7 A7 | Dm7 G7",
    "C7 C7/E | F6 Bb7 | C6 A7 | Dm7 G7",
)
RHYTHM_CLOSE = ("C7 | F6 F#dim7 | C6/G G7 | C6", "Gm7 C7 | Fmaj7 Bb9 | Dm7 G7 | C6")
RHYTHM_BRIDGES = (
    "E7 | % | A7 | % | D7 | % | G7 | %",
    "Bm7 | E7 | Em7 | A7 | Am7 | D7 | Dm7 | G7",
    "E7 | Bb7 | A7 | Eb7 | D7 | Ab7 | G7 | Db7",
    "E7#9 | % | A13 | % | D7#9 | % | G13 | %",
    "Bm7 E7 | Bm7 E7 | Em7 A7 | Em7 A7 | Am7 D7 | Am7 D7 | Dm7 G7 | Dm7 G7",
)
MINOR_RHYTHM_A = (
    "Cm6 Am7b5 | Dm7b5 G7b9 | Cm6 Am7b5 | Dm7b5 G7b9 | C7 | Fm6 F#dim7 | Cm6 Ab7 | Dm7b5 G7",
    "Cm7 Eb7 | D7 G7alt | Cm7 Eb7 | D7 G7alt | Gm7b5 C7b9 | Fm7 Bb7 | Cm6 A7b5 | Ab7 G7",
)

# A sections leave their last two bars to the turnaround (open) or the close.
MAJOR_A = (
    "Cmaj7 | A7 | Dm7 | G7 | Dm7 | G7",
    "Dm7 | G7 | Cmaj7 | Fmaj7 | Bm7b5 | E7",
    "Cmaj7 | Bm7b5 E7 | Am7 | Gm7 C7 | Fmaj7 | Fm7 Bb7",
    "Cmaj7 | Fm7 Bb7 | Cmaj7 | Em7b5 A7 | Dm7 | G7",
    "Cmaj7 | C#dim7 | Dm7 | D#dim7 | Em7 A7 | Dm7 G7",
    "Fmaj7 | Fm6 | Em7 | Ebdim7 | Dm7 | G7",
    "Cmaj7 | D7 | Dm7 | G7 | Em7 Am7 | Dm7 G7",
    "Am7 | D7 | Gmaj7 | Em7 | Dm7 | G7",
    "C6 | E7 | A7 | % | Dm7 | G7",
    "Cmaj7 | Cm7 F7 | Bbmaj7 | Bbm7 Eb7 | Dm7b5 | G7b9",
    "Cmaj7 Am7 | Dm7 G7 | Em7 Am7 | F#m7b5 B7 | Em7 A7 | Dm7 G7",
)
MAJOR_TURN = (
    "Em7 A7 | Dm7 G7",
    "Cmaj7 A7 | Dm7 G7",
    "Cmaj7 Eb7 | Dm7 Db7",
    "Cmaj7 | Dm7 G7",
    "C6 Ebmaj7 | Abmaj7 Dbmaj7",
)
MAJOR_CLOSE = ("Cmaj7 | %", "C6 | %", "Cmaj7 | C6")
MAJOR_BRIDGES = (
    "Gm7 | C7 | Fmaj7 | % | Am7 | D7 | Dm7 | G7",
    "F#m7 | B7 | Emaj7 | % | Em7 | A7 | Dm7 | G7",
    "Bbm7 | Eb7 | Abmaj7 | % | Am7 | D7 | Dm7 | G7",
    "Bm7b5 | E7 | Am7 | % | Am7 | D7 | Dm7 | G7",
    "Fm7 | Bb7 | Ebmaj7 | Cm7 | Am7b5 | D7 | Dm7 | G7",
    "Gm7 | C7 | Fmaj7 | % | Fm7 | Bb7 | Ebmaj7 | Dm7 G7",
    "Fmaj7 | F#dim7 | C/G | A7 | D7 | % | Dm7 | G7",
    "Ebm7 | Ab7 | Dbmaj7 | % | Dm7 | G7 | Em7 A7 | Dm7 G7",
    "Am7 | AmM7 | Am7 | D7 | Gmaj7 Em7 | Am7 D7 | Dm7 | G7",
    "Bm7 E7 | Amaj7 | Am7 D7 | Gmaj7 | Gm7 C7 | Fmaj7 | F#m7b5 | G7",
)
MAJOR_C = (
    "Fmaj7 | F#dim7 | C/G | A7 | Dm7 | G7 | C6 | %",
    "Fmaj7 | Fm6 Bb7 | Em7 | A7 | Dm7 | G7sus4 G7 | C6 | Dm7 G7",
    "F#m7b5 | Fm6 | Em7 | Ebdim7 | Dm7 | Db7 | C6 | %",
    "Fmaj7 | Bb9 | Em7 | A7 | D9 | G7 | C6 Ab7 | Dbmaj7 C6",
)
MINOR_A = (
    "Cm7 | Dm7b5 G7 | Cm7 | Gm7b5 C7 | Fm7 | Dm7b5 G7",
    "Fm7 | Bb7 | Ebmaj7 | Abmaj7 | Dm7b5 | G7",
    "Cm7 | Cm7/Bb | Am7b5 | Abmaj7 | Dm7b5 | G7",
    "Cm6 | % | Dm7b5 | G7 | Cm7 F7 | Dm7b5 G7",
    "Cm7 | Fm7 | Dm7b5 | G7 | Cm7 Ab7 | Dm7b5 G7",
    "Cm CmM7 | Cm7 Cm6 | Fm7 | Bb7 | Ebmaj7 Abmaj7 | Dm7b5 G7",
    "Dm7b5 | G7 | Cm7 | Am7b5 | Ab7 | G7",
    "Cm7 | Bb7 | Abmaj7 | G7 | Cm7 | Ab7 G7",
)
MINOR_TURN = ("Cm7 Am7b5 | Dm7b5 G7", "Cm7 | Dm7b5 G7", "Cm6 Eb7 | D7 Db7", "Cm7 Ab7 | G7alt")
MINOR_CLOSE = ("Cm6 | %", "Cm7 | Cm6", "CmM7 | Cm6")
MINOR_BRIDGES = (
    "Fm7 | Bb7 | Ebmaj7 | % | Am7b5 | D7 | Dm7b5 | G7",
    "Gm7b5 | C7 | Fm7 | % | Fm7 | Bb7 | Dm7b5 | G7",
    "Bbm7 | Eb7 | Abmaj7 | % | Abm7 | Db7 | Dm7b5 | G7",
    "Fm7 | % | Cm7 | % | D7 | % | Dm7b5 | G7",
    "Bbm7 | Eb7 | Abmaj7 | Dbmaj7 | Am7b5 | D7 | G7sus4 | G7",
    "Ebmaj7 | % | Ebm7 | Ab7 | Dbmaj7 | % | Dm7b5 | G7",
)
MINOR_C = (
    "Fm7 | Bb7 | Ebmaj7 | Abmaj7 | Dm7b5 | G7 | Cm6 | %",
    "Fm7 Fm7/Eb | Dm7b5 G7 | Cm7 | Ab7 | Dm7b5 | G7 | Cm6 | Dm7b5 G7",
)

BOSSA_A = (
    "Cmaj9 | % | D7#11 | % | Dm7 | G7b9",
    "Cmaj7 | C#dim7 | Dm9 | G13 | Gm7 | C7b9",
    "C69 | % | Ebdim7 | % | Dm9 | G13sus4 G7b9",
    "Cmaj9 | Bm7b5 E7b9 | Am9 | Abm9 Db13 | Gm9 | C13",
    "Cmaj7 | Fm6 | Cmaj7 | Am7 | D9 | Dm7 G7b9",
)
BOSSA_B = (
    "Fmaj9 | % | Fm9 | Bb13 | Em7 | A7b13 | Dm9 | G7b9",
    "Dbmaj9 | % | Gb13 | % | C#m9 | % | A13 | Dm7 G7",
    "Fmaj9 | F#dim7 | Em7 | A7b9 | D9 | % | Dm9 | Db9",
    "Am7 | D9 | Gmaj9 | % | Gm7 | C9 | Fm7 Bb9 | G7b9",
)
BOSSA_MINOR_A = (
    "Cm9 | % | Dm7b5 | G7b13 | Cm69 | %",
    "Cm7 | G7/B | Bbm6 | A7b13 | Abmaj7 | G7b13",
    "Cm9 | % | Ab7#11 | % | Dm7b5 | G7b9",
    "Cm7 | Abmaj7 | Fm9 | Bb13 | Dm7b5 | G7b13",
)
BOSSA_MINOR_B = (
    "Bbm9 | Eb13 | Abmaj9 | % | Am7b5 | D7b9 | Dm7b5 | G7b13",
    "Fm9 | Bb13 | Ebmaj9 | Abmaj7 | Dm7b5 | G7b9 | Cm69 | G7b13",
    "Ebm9 | Ab13 | Dbmaj9 | % | Dm7b5 | G7b9 | Cm9 | G7alt",
)

WALTZ_A = (
    "Cmaj7 | Em7 A7 | Dm7 | G7 | Em7 | A7 | Dm7 | G7",
    "Cmaj7 | Fmaj7 | Em7 | A7 | Dm7 | G7 | Em7 A7 | Dm7 G7",
    "Cmaj7 | Bb7 | Cmaj7 | A7 | Dm7 | E7 | Am7 | Dm7 G7",
    "C69 | Ebdim7 | Dm7 | G7 | Gm7 | C7 | Fmaj7 | G7sus4",
    "Am7 | Dm7 | G7 | Cmaj7 | F#m7b5 | B7 | Em7 A7 | Dm7 G7",
)
WALTZ_B = (
    "Fmaj7 | Bb7 | Em7 | A7 | Dm7 | G7 | Cmaj7 | %",
    "Bm7b5 | E7 | Am7 | D7 | Fm6 | G7 | Cmaj7 | %",
    "Ebmaj7 | Abmaj7 | Dm7 | G7 | Em7 | A7 | Dm7 G7 | C6",
    "Gm7 | C7 | Fmaj7 | Fm6 | Em7 A7 | Dm7 G7 | C6 | %",
)
WALTZ_MINOR_A = (
    "Cm7 | Fm7 | Dm7b5 | G7 | Cm7 | Ab7 | Dm7b5 | G7",
    "Cm9 | % | Abmaj7 | % | Fm9 | % | G7sus4 | G7b9",
    "Cm7 | F7 | Cm7 | F7 | Abmaj7 | G7 | Cm7 | G7#9",
)
WALTZ_MINOR_B = (
    "Fm7 | Bb7 | Ebmaj7 | Abmaj7 | Dm7b5 | G7 | Cm6 | %",
    "Dbmaj7#11 | % | Cm9 | % | Ab7 | G7alt | Cm6 | %",
    "Bbm7 | Eb7 | Abmaj7 | % | D7 | G7 | Cm7 | G7",
)

BALLAD_A = (
    "Cmaj7 A7b9 | Dm7 G7 | Em7 A7 | Dm7 G7 | Cmaj9 C7 | Fmaj7 Bb13",
    "Cmaj9 | Fm9 Bb13 | Em7 Am7 | Ebm7 Ab13 | Dm9 | G13sus4 G7b9",
    "Fmaj7 Bm7b5 | Em7 A7b13 | Dm9 F#dim7 | C6/G A7b9 | Dm7 | G7sus4 G7",
    "C69 Ebdim7 | Dm9 Db7#11 | Cmaj9 Bm7b5 | E7b9 Am7 | D9 | Dm7 G7b9",
    "Cmaj7 Bm7b5 | Bb13 A7 | Dm7 Dm7/C | Bm7b5 E7b9 | Am7 D7 | Dm7 G13",
)
BALLAD_B = (
    "Gm7 C7b9 | Fmaj9 | Bm7b5 E7b9 | Am9 | Am7 D7 | Gmaj7 Em7 | Dm7 F#dim7 | G7sus4 G7",
    "Bbm9 Eb13 | Abmaj9 | Am7 D7b9 | Gmaj9 | Fm9 Bb13 | Em7 A7 | Dm9 | G7alt",
    "Emaj7 | F#m7 B7 | Emaj7 C#m7 | F#m7 B7 | Em7 A7 | Dm7 | Dm7 Ab7 | G13sus4 G7",
)
BALLAD_MINOR_A = (
    "Cm9 Am7b5 | Dm7b5 G7b9 | Cm9 C7b9 | Fm9 | Dm7b5 | G7b9",
    "Cm CmM7 | Cm7 Am7b5 | Abmaj7 Fm7 | Dm7b5 G7 | Cm7 Ab7 | Dm7b5 G7alt",
    "Fm9 Bb13 | Ebmaj9 Abmaj7 | Dm7b5 G7b9 | Cm9 | Ab13 | G7sus4 G7b9",
)
BALLAD_MINOR_B = (
    "Bbm7 Eb7 | Abmaj9 | Abm7 Db7 | Gbmaj9 | Dm7b5 G7 | Cm7 Am7b5 | Ab7 | G7b9",
    "Ebmaj9 | Fm7 Bb7 | Ebmaj7 Ab7 | Gm7 C7b9 | Fm9 | Dm7b5 G7b9 | Cm7 Ab7 | G7alt",
)
# Vamps of the montuno, and the tune that comes before them.
MONTUNO = (
    "C6 | Dm7 G7 | C6 | Dm7 G7 | C6 A7 | Dm7 G7 | C6 | G7",
    "C7 | F7 | C7 | G7 | C7 | F7 | G7 | C7",
    "Cmaj7 | % | Dm7 | G7 | Em7 A7 | Dm7 G7 | C6 | G7",
)
MONTUNO_B = (
    "C6 F6 | G7 F6 | C6 F6 | G7 F6 | C6 F6 | G7 F6 | C6 F6 | G7",
    "Fmaj7 | % | Cmaj7 | A7 | Dm7 | G7 | C6 | G7",
    "Dm7 | G7 | Dm7 | G7 | C6 | A7 | Dm7 | G7",
)
MONTUNO_MINOR = (
    "Cm7 | F7 | Cm7 | F7 | Cm7 | F7 | Cm7 | G7",
    "Cm6 | G7 | Cm6 | C7b9 | Fm6 | Cm6 | G7 | Cm6",
    "Cm7 | Fm7 | G7 | Cm7 | Cm7 | Fm7 | Dm7b5 G7 | Cm7",
)
MONTUNO_MINOR_B = (
    "Cm7 F7 | Cm7 F7 | Cm7 F7 | Cm7 F7 | Cm7 F7 | Cm7 F7 | Cm7 F7 | G7",
    "Fm7 | Bb7 | Ebmaj7 | Abmaj7 | Dm7b5 | G7 | Cm7 | G7",
    "Cm6 Fm6 | G7 Fm6 | Cm6 Fm6 | G7 Fm6 | Cm6 Fm6 | G7 Fm6 | Cm6 Fm6 | G7",
)
# Four bars that go round, and four to come back from.
VAMP = ("C7 | % | % | F7", "C9 | Bb9 | C9 | Bb9", "C7#9 | % | F13 | %", "C13 | % | Eb13 | Bb13")
VAMP_B = ("F7 | % | C7 | G7#9", "Am7 | D9 | Dm7 | G13sus4", "Ab13 | % | G13 | %")
VAMP_MINOR = ("Cm7 | F9 | Cm7 | F9", "Cm7 | % | % | Bb7", "Cm9 | % | Ab13 | G7#9", "Cm7 | Eb7 | F7 | Cm7")
VAMP_MINOR_B = ("Fm7 | % | Cm7 | G7#9", "Abmaj7 | Bb9 | Cm7 | %", "Fm9 | Bb13 | Ab13 | G7#9")
# Sixth chords and dominants, as guitars that keep time play them.
SIXTHS = (
    "C6 | C#dim7 | Dm7 | G7 | Dm7 | G7 | C6 | Dm7 G7",
    "C6 | E7 | A7 | % | D7 | G7 | C6 | G7",
    "C6 | % | D7 | % | Dm7 | G7 | C6 | C#dim7 G7",
)
SIXTHS_BRIDGES = ("E7 | % | A7 | % | D7 | % | G7 | %", "C7 | % | F6 | Fm6 | C6 A7 | D7 | G7 | %")
SIXTHS_MINOR = (
    "Cm6 | % | Fm6 | G7 | Cm6 | D7 | G7 | Cm6",
    "Cm6 | G7 | Cm6 | C7 | Fm6 | Cm6 | G7 | Cm6",
    "Cm6 | % | G7 | % | G7 | % | Cm6 | Ab7 G7",
)
SIXTHS_MINOR_BRIDGES = ("C7 | % | Fm6 | % | D7 | % | G7 | %", "Fm6 | % | Cm6 | % | Ab7 | % | G7 | %")
STREET = (
    "C6 | % | F6 | C6 | C6 A7 | D7 | G7 | %",
    "C7 | F7 | C7 | % | F7 | F#dim7 | C/G A7 | D7 G7",
    "C6 | G7 | % | C6 | C7 | F6 | G7 | C6",
)
STREET_B = (
    "C6 | C7 | F6 | Fm6 | C6 A7 | D7 G7 | C6 | G7",
    "F6 | F#dim7 | C/G | A7 | D7 | G7 | C6 | G7",
    "C6 | C7/E | F6 | F#dim7 | C/G G7 | C6 G7 | C6 | %",
)
STREET_MINOR = ("Cm6 | % | G7 | Cm6 | Fm6 | Cm6 | G7 | Cm6", "Cm6 | Ab7 | G7 | Cm6 | Cm6 | Ab7 | G7 | %")
STREET_MINOR_B = ("Fm6 | % | Cm6 | % | Ab7 | G7 | Cm6 | G7", "Eb6 | % | Fm6 | G7 | Cm6 Ab7 | G7 | Cm6 | %")
# Open chords over basses that stay.
OPEN = (
    "Cmaj9 | % | Fmaj7#11/C | % | Am9 | % | Fmaj9 | Gsus4",
    "Am11 | % | Fmaj7#11 | % | Dm11 | % | Em7 | Am9",
    "Cm9 | % | Abmaj7#11 | % | Bb/C | % | Ebmaj9 | Fsus4",
    "C5 | Bb/C | Fmaj9/C | C5 | Abmaj7 | Bb | Cm11 | %",
)
OPEN_B = (
    "Dbmaj7#11 | % | Cm11 | % | Abmaj9 | Bbsus4 | Cm9 | %",
    "Fmaj9 | Em7 | Am9 | % | Bbmaj7#11 | Gsus4 | Cmaj9 | %",
    "F#m11 | % | Emaj9 | % | Dmaj7#11 | % | Am11 | G/A",
)
# Two-bar colours of one mode; a modal form holds each for a phrase.
MODES = (
    "C9sus4 | %",
    "C13sus4 | %",
    "Cmaj7#11 | %",
    "Cmaj9 | G9sus4",
    "C13 | C9sus4",
    "Cmaj9 | Dm9/C",
    "Cmaj7#11 | D/C",
)
MINOR_MODES = (
    "Cm7 | %",
    "Cm11 | %",
    "Cm9 | %",
    "Cm7 | Dm7/C",
    "Cm69 | %",
    "C7sus4b9 | %",
    "Cm7 | F7/C",
    "Cm7 | Dbmaj7/C",
    "Cm11 | Bb/C",
    "Cm9 | F13",
)
MODE_SHIFTS = (1, 2, 3, 5, 8, 10, 11)
FREE_QUALITIES = (
    "maj7",
    "m7",
    "7",
    "m7b5",
    "dim7",
    "6",
    "m6",
    "maj9",
    "m9",
    "9",
    "13",
    "7sus4",
    "9sus4",
    "7alt",
    "7b9",
    "7#11",
    "m11",
    "mM7",
    "69",
    "maj7#11",
    "7#5",
    "",
    "m",
    "7#9",
    "13sus4",
    "7b13",
    "aug",
    "sus2",
    "m13",
    "13b9",
)
