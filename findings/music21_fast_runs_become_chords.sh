#!/usr/bin/env bash
# music21 10.5.1 (file made with mido 1.3.3): reading a MIDI file turns a fast run into chords
#
# A good engineer would guess: eight notes that follow one another in the file, each ending where the next begins, are eight notes
# after reading. Rounding may move them a little.
#
# What happens: on reading, times are rounded to the nearest sixteenth or eighth triplet. Notes twice as fast meet on one grid
# line and become one chord. Seen, for eight thirty-second notes upwards from C:
#     read as usual:        [['C4', 'C#4'], ['D4', 'E-4'], ['E4', 'F4'], ['F#4', 'G4']]
#     quantizePost=False:   [['C4'], ['C#4'], ['D4'], ['E-4'], ['E4'], ['F4'], ['F#4'], ['G4']]
#
# Why it matters: double-time lines and grace notes are the heart of a solo. Interval and chord statistics of such a file are those of
# another piece, and no warning says so.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile music21==10.5.1 mido==1.3.3
venv/bin/python - <<'PY'
import mido
from music21 import converter

midi = mido.MidiFile(ticks_per_beat=480)
track = mido.MidiTrack()
midi.tracks.append(track)
for pitch in range(60, 68):
    track.append(mido.Message("note_on", note=pitch, velocity=80, time=0))
    track.append(mido.Message("note_off", note=pitch, velocity=0, time=60))
midi.save("run.mid")


def notes(**options):
    score = converter.parse("run.mid", forceSource=True, **options)
    return [[pitch.nameWithOctave for pitch in element.pitches] for element in score.flatten().notes]


usual, kept = notes(), notes(quantizePost=False)
print("read as usual:       ", usual)
print("quantizePost=False:  ", kept)
assert len(kept) == 8 and all(len(chord) == 1 for chord in kept)
assert len(usual) == 4 and all(len(chord) == 2 for chord in usual), "changed: the run stays a run"
PY
