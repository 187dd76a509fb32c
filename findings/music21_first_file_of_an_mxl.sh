#!/usr/bin/env bash
# music21 10.5.1: a compressed MusicXML file is read from its first score, not from the one that it names
#
# A good engineer would guess: in an .mxl, META-INF/container.xml names the file that is the score; the others (parts, for
# instance) lie beside it. That is what the format has the container for.
#
# What happens: music21 does not look into the container, it takes the first .musicxml or .xml in the order of the archive. Seen, for
# an archive with parts/alto.musicxml (the note A) before score.musicxml (the note C), which the container names:
#     container.xml names score.musicxml (C), music21 read A
#
# Why it matters: a score with its parts in one file comes back as one part, silently; the chords of the lead sheet are gone.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile music21==10.5.1
venv/bin/python - <<'PY'
import zipfile

from music21 import converter


def score(step):
    return ('<?xml version="1.0"?><score-partwise version="4.0"><part-list><score-part id="P1"><part-name>Lead</part-name>'
            '</score-part></part-list><part id="P1"><measure number="1"><attributes><divisions>1</divisions></attributes><note>'
            f"<pitch><step>{step}</step><octave>4</octave></pitch><duration>4</duration><type>whole</type></note></measure></part>"
            "</score-partwise>")


with zipfile.ZipFile("tune.mxl", "w") as archive:
    archive.writestr("META-INF/container.xml", '<?xml version="1.0"?><container><rootfiles><rootfile full-path="score.musicxml" '
                     'media-type="application/vnd.recordare.musicxml+xml"/></rootfiles></container>')
    archive.writestr("parts/alto.musicxml", score("A"))
    archive.writestr("score.musicxml", score("C"))
read = [note.name for note in converter.parse("tune.mxl", forceSource=True).recurse().notes]
print(f"container.xml names score.musicxml (C), music21 read {read[0]}")
assert read == ["A"], "changed: the container is followed"
PY
