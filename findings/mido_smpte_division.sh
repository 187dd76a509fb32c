#!/usr/bin/env bash
# mido 1.3.3: a file in SMPTE time has negative times
#
# A good engineer would guess: a MIDI file whose division is frames and ticks (the standard's other way to write time) is either
# timed by it, or refused.
#
# What happens: the two bytes are read as one signed number of ticks per beat. The division of 25 frames of 40 ticks, one
# millisecond a tick, becomes -6360; lengths and waits are negative. Nothing is raised. Seen, for a note of one second:
#     ticks_per_beat -6360, length -0.079 s, waits [0, -0.079, 0]
#
# Why it matters: sequencers that work to film write such files. A player that sleeps for the waits plays all notes at once, and
# features per second get negative indices, which Python takes. Check `ticks_per_beat > 0` after reading.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile mido==1.3.3
venv/bin/python - <<'PY'
import struct

import mido

track = bytes([0x00, 0x90, 60, 80,          # note on at 0
               0x87, 0x68, 0x80, 60, 0,     # note off 1,000 ticks later
               0x00, 0xFF, 0x2F, 0x00])     # end of track
header = b"MThd" + struct.pack(">IHHbB", 6, 0, 1, -25, 40)   # 25 frames a second, 40 ticks a frame
with open("smpte.mid", "wb") as file:
    file.write(header + b"MTrk" + struct.pack(">I", len(track)) + track)

midi = mido.MidiFile("smpte.mid")
waits = [round(message.time, 3) for message in midi]
print(f"ticks_per_beat {midi.ticks_per_beat}, length {midi.length:.3f} s, waits {waits}")
assert midi.ticks_per_beat == -6360 and midi.length < 0, "changed: SMPTE division is read otherwise"
PY
