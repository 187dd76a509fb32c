#!/usr/bin/env bash
# pysfizz 0.1.3: a fresh synth throws the dice where the last one of the process left them
#
# A good engineer would guess: random layers (`lorand`, `hirand`) either differ in each run, or a fresh synth with a freshly loaded
# instrument begins at the same place, so that a take that is rendered again, with a synth of its own, sounds as before.
#
# What happens: sfizz has one generator for the whole process, with a fixed seed and no way to set it. Every process draws the same
# row; every synth in it goes on where the one before ended. Seen, which of two layers twelve notes of three fresh synths had, twice:
#     first process  abaabbbababa abaaabbbabaa aabaaaaaaaab
#     second process abaabbbababa abaaabbbabaa aabaaaaaaaab
#
# Why it matters: a take's sound hangs on how many notes its process has played before it. One worker makes other data than four, a
# corpus that is resumed other data than one made in one go, and a test that renders once per process never sees it. The same holds
# for `amp_random`, `pitch_random` and the like.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile numpy==2.4.6 soundfile==0.14.0 pysfizz==0.1.3
cat > row.py <<'PY'
import numpy as np
import pysfizz
import soundfile

rate = 48_000
time = np.arange(rate) / rate
for name, hertz in (("a", 220), ("b", 330)):
    soundfile.write(f"{name}.wav", (0.3 * np.sin(2 * np.pi * hertz * time)).astype(np.float32), rate)
with open("two.sfz", "w") as file:
    file.write("<control> hint_ram_based=1\n<region> sample=a.wav key=60 hirand=0.5\n<region> sample=b.wav key=60 lorand=0.5\n")


def layers():
    synth = pysfizz.Synth(sample_rate=rate, block_size=512)
    synth.load_sfz_file("two.sfz")
    row = ""
    for _ in range(12):
        sound = np.asarray(synth.render_note(60, 100, 0.2, 0.3))[0][2_000:8_000]     # pitch, velocity, held for, rendered for
        row += "ab"[int(np.abs(np.fft.rfft(sound)).argmax() * rate / 6_000 > 275)]
    return row


print(*(layers() for _ in range(3)))
PY
first=$(venv/bin/python row.py)
second=$(venv/bin/python row.py)
echo "first process  $first"
echo "second process $second"
[ "$first" = "$second" ] || { echo "changed: processes differ"; exit 1; }
[ "$(tr ' ' '\n' <<< "$first" | sort -u | wc -l)" -gt 1 ] || { echo "changed: every synth begins anew"; exit 1; }
