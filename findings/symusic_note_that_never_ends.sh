#!/usr/bin/env bash
# symusic 0.6.0: one note without an end moves the ends of all later notes of its pitch
#
# A good engineer would guess: where a note-off is missing (lost on the wire, or the recording was cut), that note is too long or
# is dropped. The notes after it, each with its own note-off, are right.
#
# What happens: ends are given to beginnings first in, first out, with no limit. The hanging note takes the end of the next one,
# that one the end of the one after it, and so on to the end of the track; the last note of the pitch is lost. Seen, for a note that
# never ends at 0 and four notes of 120 ticks at 480, 960, 1440 and 1920:
#     symusic      [(0, 600), (480, 1080), (960, 1560), (1440, 2040)]
#     pretty_midi  [(0, 600), (480, 600), (960, 1080), (1440, 1560), (1920, 2040)]
#
# Why it matters: one lost message at the beginning of a set makes every later note of that pitch last until the next one: staccato
# becomes legato, in files on which models are then trained. Other readers end at most the one note wrongly.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile mido==1.3.3 symusic==0.6.0 pretty_midi==0.2.11
venv/bin/python - <<'PY'
import mido
import pretty_midi
import symusic

midi = mido.MidiFile(ticks_per_beat=480)
track = mido.MidiTrack()
midi.tracks.append(track)
events = [(0, "note_on", 100)]
for start in (480, 960, 1440, 1920):
    events += [(start, "note_on", 70), (start + 120, "note_off", 0)]
now = 0
for tick, kind, velocity in events:
    track.append(mido.Message(kind, note=60, velocity=velocity, time=tick - now))
    now = tick
midi.save("hanging.mid")

fifo = [(n.time, n.end) for n in symusic.Score("hanging.mid").tracks[0].notes]
other = pretty_midi.PrettyMIDI("hanging.mid")
pairs = [(int(other.time_to_tick(n.start)), int(other.time_to_tick(n.end))) for n in other.instruments[0].notes]
print("symusic     ", fifo)
print("pretty_midi ", pairs)
assert pairs[1:] == [(480, 600), (960, 1080), (1440, 1560), (1920, 2040)]
assert fifo == [(0, 600), (480, 1080), (960, 1560), (1440, 2040)], "changed: later notes are no longer moved"
PY
