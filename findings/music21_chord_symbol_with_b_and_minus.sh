#!/usr/bin/env bash
# music21 10.5.1: ChordSymbol reads "Bb7" as a B chord and "C-7" as C flat, without an error
#
# A good engineer would guess: "Bb7" is B flat seventh and "C-7" C minor seventh, as on every chart; a parser that wants another
# spelling (music21 writes flats as "-") raises an error for these.
#
# What happens: "Bb7" becomes B seventh, a semitone too high, "C-7" C flat seventh. Only some spellings are refused. Seen:
#     Bb7     ['B', 'D#', 'F#', 'A']
#     C-7     ['C-', 'E-', 'G-', 'B--']
#     Bbmaj7  ValueError
#
# Why it matters: flats and the minus for minor are the most common signs of a jazz chart; the tune comes back in wrong chords, and a
# test with C, F and G passes. Chord text has to be respelled before it gets there.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile music21==10.5.1
venv/bin/python - <<'PY'
from music21.harmony import ChordSymbol

read = {}
for text in ("Bb7", "C-7", "Bbmaj7"):
    try:
        read[text] = [pitch.name for pitch in ChordSymbol(text).pitches]
    except ValueError:
        read[text] = "ValueError"
    print(f"{text:7} {read[text]}")
assert read["Bb7"] == ["B", "D#", "F#", "A"], "changed: Bb7 is read otherwise"
assert read["C-7"] == ["C-", "E-", "G-", "B--"], "changed: C-7 is read otherwise"
assert read["Bbmaj7"] == "ValueError", "changed: Bbmaj7 is read"
PY
