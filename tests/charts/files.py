"""Made-up tunes in the formats that musicians bring."""

from __future__ import annotations

import io
import zipfile

TUNES = [
    "Dm7 | G7 | Cmaj7 | %",
    "3/4 C F G | Am7",
    "[A] |: C | F7 |[1 G7 :|[2 Am7b5 D7 || [B] Em7 | A7 To Coda | D.C. al Coda || [Coda] F | G6",
    "5/4 Am7 D7 | 6/8 C | 12/8 F G",
    "C | [Segno] F | G Fine | A | D.S. al Fine",
    "C/E Dm7 G7 | F | N.C. | Bb C7b9/E",
    "|: C | F :| x3 | G",
    "|: C | F |[1 G :|[2 Ab :|[3 A || Bb13 | Ebdim7",
]

HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
SCORE = '<score-partwise version="4.0"><work><work-title>Made Up</work-title></work><identification>'\
    '<creator type="composer">Nobody</creator></identification><part-list><score-part id="P1"><part-name>M</part-name>'\
    '</score-part></part-list><part id="P1">{measures}</part></score-partwise>'  # fmt: skip


def harmony(root: str, kind: str, *degrees: tuple[int, int, str], bass: str = "", offset: int = 0) -> str:
    more = "".join(
        f"<degree><degree-value>{value}</degree-value><degree-alter>{alter}</degree-alter>"
        f"<degree-type>{what}</degree-type></degree>"
        for value, alter, what in degrees
    )

    def note(name: str, element: str) -> str:
        alter = {"b": -1, "#": 1}.get(name[1:2], 0)
        step = f"<{element}-step>{name[0]}</{element}-step><{element}-alter>{alter}</{element}-alter>"
        return f"<{element}>{step}</{element}>"

    return (
        f"<harmony>{note(root, 'root')}<kind>{kind}</kind>{note(bass, 'bass') if bass else ''}{more}"
        f"<offset>{offset}</offset></harmony>"
    )


def measure(*inside: str, beats: int = 4, attributes: str = "", implicit: bool = False) -> str:
    rest = f"<note><rest/><duration>{beats}</duration></note>" if beats else ""
    implied = ' implicit="yes"' if implicit else ""
    said = f"<attributes><divisions>1</divisions>{attributes}</attributes>"
    return f'<measure number="1"{implied}>{said}{"".join(inside)}{rest}</measure>'


def musicxml(*measures: str, head: str = HEAD) -> bytes:
    return (head + SCORE.format(measures="".join(measures))).encode()


def mxl(
    xml: bytes, name: str = "score.xml", container: bool = True, more: dict[str, bytes] | None = None
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, data in (more or {}).items():
            archive.writestr(other, data)
        if container:
            archive.writestr(
                "META-INF/container.xml",
                f'<container><rootfiles><rootfile full-path="{name}"/></rootfiles></container>',
            )
        archive.writestr(name, xml)
    return out.getvalue()


def midi(chords: list[tuple[float, list[int]]] = (), markers: list[tuple[float, str]] = (), **meta) -> bytes:  # type: ignore[assignment]
    """A file of block chords (start in beats, notes; a beat shorter than the next) and of markers."""
    import mido

    file = mido.MidiFile(ticks_per_beat=480)
    events: list[tuple[float, int, object]] = []
    track = mido.MidiTrack()
    file.tracks.append(track)
    numerator, denominator = meta.get("metre", (4, 4))
    track.append(mido.MetaMessage("track_name", name=meta.get("title", "")))
    track.append(mido.MetaMessage("time_signature", numerator=numerator, denominator=denominator))
    track.append(mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(meta.get("tempo", 120))))
    for at, text in markers:
        events.append((at, 0, mido.MetaMessage("marker", text=text)))
    ends = [at for at, _ in chords[1:]] + ([chords[-1][0] + meta.get("last", 4.0)] if chords else [])
    for (at, notes), end in zip(chords, ends):
        for note in notes:
            events.append((at, 1, mido.Message("note_on", note=note, velocity=80)))
            events.append((end - 0.1, 0, mido.Message("note_off", note=note)))
    now = 0
    for at, _, message in sorted(events, key=lambda each: (each[0], each[1])):
        track.append(message.copy(time=round(at * 480) - now))  # type: ignore[attr-defined]
        now = round(at * 480)
    track.append(mido.MetaMessage("end_of_track", time=round(480 * meta.get("last", 4.0))))
    out = io.BytesIO()
    file.save(file=out)
    return out.getvalue()


CHORDPRO = """\
{title: Made Up}
{key: G}
{tempo: 96}
# nobody's words
{start_of_verse}
[G]La la [C]la, la [D7]la
{end_of_verse}
{soc: Chorus}
[Em]La [Am7]la
{eoc}
"""
GRID = """\
{title: A Grid}
{time: 4/4}
{start_of_grid}
A    || G7 . . . | % . . . | C7 . D7 . | G7 . . . ||
|: C7 . . . | G7 . . . :| x2
{end_of_grid}
"""
OVER_WORDS = """\
A Song
Key: C

C            Am7
La la la la, la la la
Dm7      G7
la la la, la
"""
