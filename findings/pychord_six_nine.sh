#!/usr/bin/env bash
# pychord 1.4.1: "C6/9" is read as an inversion of C6
#
# A good engineer would guess: C6/9, the common way to write a six-nine chord, is the same as C69, or an error as other unknown
# spellings give.
#
# What happens: what stands behind the slash is taken as the number of an inversion, and 9 of a four-note chord wraps round to
# the first one. There is no ninth (D) and the bass note is E, without a word. Seen:
#     C69   ['C', 'E', 'G', 'A', 'D']
#     C6/9  ['E', 'G', 'A', 'C']
#
# Why it matters: every tonic chord of a bossa nova chart may be spelled so. The chord loses its colour and the bass player its root.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile pychord==1.4.1
venv/bin/python - <<'PY'
from pychord import Chord

names = {name: Chord(name).components() for name in ("C69", "C6/9")}
for name, notes in names.items():
    print(f"{name:5} {notes}")
assert names["C69"] == ["C", "E", "G", "A", "D"]
assert names["C6/9"] == ["E", "G", "A", "C"], "changed: C6/9 is read otherwise"
PY
