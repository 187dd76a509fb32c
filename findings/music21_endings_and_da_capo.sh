#!/usr/bin/env bash
# music21 10.5.1: with a D.C. in the piece, the repeat plays both endings
#
# A good engineer would guess: adding "D.C. al Fine" to a piece leaves what comes before the D.C. as it was: first ending the
# first time, second ending the second time.
#
# What happens: as soon as there is a D.C., expandRepeats plays first and second ending one after the other at the
# second pass. isExpandable() says True, nothing is raised. Seen, one whole note a bar (C, first ending D, second ending E, then F):
#     without D.C.:            C D C E F
#     with D.C. al Fine:       C D C D E F C D E
#     what the second should be: C D C E F C E
#
# Why it matters: verse-chorus forms of songbooks are written so. The unfolded tune has bars that nobody plays, so choruses are of
# the wrong length and accompaniment and audio no longer align.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile music21==10.5.1
venv/bin/python - <<'PY'
from music21 import converter, repeat


def bar(number, step, left="", right="", words=""):
    attributes = ("<attributes><divisions>1</divisions><time><beats>4</beats><beat-type>4</beat-type></time></attributes>"
                  if number == 1 else "")
    left = left and f'<barline location="left">{left}</barline>'
    right = right and f'<barline location="right">{right}</barline>'
    return (f'<measure number="{number}">{left}{attributes}{words}<note><pitch><step>{step}</step><octave>4</octave></pitch>'
            f"<duration>4</duration><type>whole</type></note>{right}</measure>")


def sign(text, sound):
    return f"<direction><direction-type><words>{text}</words></direction-type><sound {sound}/></direction>"


def unfolded(da_capo):
    bars = [
        bar(1, "C", left='<repeat direction="forward"/>'),
        bar(2, "D", '<ending number="1" type="start"/>', '<ending number="1" type="stop"/><repeat direction="backward"/>'),
        bar(3, "E", '<ending number="2" type="start"/>', '<ending number="2" type="stop"/>', sign("Fine", 'fine="yes"') * da_capo),
        bar(4, "F", words=sign("D.C. al Fine", 'dacapo="yes"') * da_capo),
    ]
    xml = ('<?xml version="1.0"?><score-partwise version="4.0"><part-list><score-part id="P1"><part-name>Lead</part-name>'
           f'</score-part></part-list><part id="P1">{"".join(bars)}</part></score-partwise>')
    part = converter.parse(xml, format="musicxml").parts[0]
    assert repeat.Expander(part).isExpandable()
    return " ".join(note.name for note in part.expandRepeats().recurse().notes)


plain, da_capo = unfolded(False), unfolded(True)
print("without D.C.:     ", plain)
print("with D.C. al Fine:", da_capo)
assert plain == "C D C E F"
assert da_capo == "C D C D E F C D E", "changed: repeats with D.C. unfold otherwise"
PY
