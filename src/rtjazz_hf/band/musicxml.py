"""Scores from MusicXML, read by music21.

music21 leaves three things to its caller that change what is heard: parts of transposing instruments stand as written
(a trumpet's C is a B flat), repeats are signs and not bars, and of a compressed file it takes the first entry, which
need not be the music. It can unfold repeats, but plays endings together with D.C. or D.S. otherwise than written: the
order of the measures is that of charts (`charts.musicxml.order_of_bars`).
"""

from __future__ import annotations

import bisect
import io
import itertools
import os
import re
import warnings
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..music.vocabulary import canonical_key
from .parts import Part, Reading, Tone
from .score import Score

MUSICXML_SUFFIXES = (".musicxml", ".mxl", ".xml")
MAX_BYTES = 32 * 2**20  # unpacked
_VELOCITY = 80


def read_musicxml(
    file: str | os.PathLike | bytes, name: str = "the MusicXML file", heard: Callable[[str], None] | None = None
) -> Score:
    """The score of a MusicXML file (also compressed), given by its path or its bytes, at sounding pitch, repeats and
    jumps played out.

    Roles follow names and instruments as in `read_midi`. What is not played as it stands there (grace notes, a form
    that cannot be) is told to `heard`, or else warned of (`ScoreWarning`).

    Raises:
        OSError: the file cannot be read. ImportError: music21 is missing.
        ValueError: it is no MusicXML, is damaged or has no notes.
    """
    try:
        import music21
    except ImportError as error:
        raise ImportError("MusicXML scores need music21; run: pip install 'rtjazz-hf[scores]'") from error
    if not isinstance(file, bytes):
        name = f"'{Path(file).name}'"
        with open(file, "rb") as stream:
            file = stream.read(MAX_BYTES + 1)
    text = _unpacked(file, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = music21.converter.parseData(text, format="musicxml")
    except Exception as error:  # music21 and the XML parser have many
        raise ValueError(f"{name} is damaged and cannot be read as MusicXML ({error})") from None
    reading = Reading(name, heard)
    order = _order(text, reading)
    for part in stream.parts:
        _read_part(music21, part, order, reading)
    title = stream.metadata.title if stream.metadata is not None else None
    reading.title = (title or "").strip()
    return reading.score()


def _unpacked(data: bytes, name: str) -> str:
    if data[:2] == b"PK":
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                container = ElementTree.fromstring(archive.read("META-INF/container.xml"))
                path = next(e.get("full-path") for e in container.iter() if e.tag.endswith("rootfile"))
                if archive.getinfo(path).file_size > MAX_BYTES:
                    raise ValueError(f"{name} has more than {MAX_BYTES // 2**20} MiB unpacked")
                data = archive.read(path)
        except (KeyError, StopIteration, zipfile.BadZipFile, ElementTree.ParseError) as error:
            raise ValueError(
                f"{name} is not compressed MusicXML: its container names no score ({error})"
            ) from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"{name} has more than {MAX_BYTES // 2**20} MiB: no score of one piece is so large")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = data.decode(encoding, errors="replace")
    if "<score-partwise" not in text and "<score-timewise" not in text:
        raise ValueError(f"{name} is not MusicXML: it has no score-partwise")
    if re.search(r"<!ENTITY", text):
        raise ValueError(
            f"{name} declares XML entities, which no score needs: save it again with a notation program"
        )
    return text


def _order(text: str, reading: Reading) -> list[int] | None:
    """The measures in the order in which they are played; None where they are played as they stand."""
    from ..charts.musicxml import order_of_bars

    try:
        order, remarks = order_of_bars(text.encode())
    except ValueError as error:
        reading.say(f"the form cannot be played, and the bars are played as they stand ({error})")
        return None
    for remark in remarks:
        reading.say(remark)
    return None if order == list(range(len(order))) else order


def _played(tones: list[Tone], measures: list[tuple[float, float]], order: list[int]) -> list[Tone]:
    """Tones, in beats from the first measure on, as often and where their measures are played.

    Args:
        measures: start and length of each, in beats. A tone that is tied over to a measure which is not played next
            ends with its own.
    """
    inside: list[list[Tone]] = [[] for _ in measures]
    starts = [start for start, _ in measures]
    for tone in tones:
        inside[max(0, bisect.bisect_right(starts, tone.start + 1e-6) - 1)].append(tone)
    found, at = [], 0.0
    for place, index in enumerate(order):
        start, length = measures[index]
        goes_on = place + 1 < len(order) and order[place + 1] == index + 1
        for tone in inside[index]:
            beats = tone.beats if goes_on else min(tone.beats, start + length - tone.start)
            found.append(replace(tone, start=tone.start - start + at, beats=beats))
        at += length
    return found


def _read_part(music21: Any, part: Any, order: list[int] | None, reading: Reading) -> None:
    name = (part.partName or "").strip()
    part = part.toSoundingPitch()
    instrument = part.getInstrument(returnDefault=False)
    if not name and instrument is not None:
        name = instrument.instrumentName or ""
    program = getattr(instrument, "midiProgram", None)
    drums = (
        isinstance(instrument, music21.instrument.UnpitchedPercussion)
        or getattr(instrument, "midiChannel", 0) == 9
    )
    bar_line = _metre_key_tempo(music21, part, reading)
    tones, graces = _tones(music21, part)
    if order is not None:
        bars = list(part.getElementsByClass(music21.stream.Measure))
        edges = [float(bar.offset) for bar in bars] + [float(part.duration.quarterLength)]
        if len(bars) > max(order):
            tones = _played(tones, [(start, end - start) for start, end in itertools.pairwise(edges)], order)
    tones = [replace(tone, start=tone.start - bar_line) for tone in tones]
    if graces:
        reading.say(f"{graces} grace notes of {name or 'a part'!r} are left out")
    reading.parts.append(Part(name, tuple(tones), program=None if drums else program, drums=drums))


def _metre_key_tempo(music21: Any, part: Any, reading: Reading) -> float:
    """Leaves what the first part says of them in `reading`; the place of the first bar line in beats."""
    measures = list(part.getElementsByClass(music21.stream.Measure))
    metres = [sign.ratioString for sign in part.recurse().getElementsByClass(music21.meter.TimeSignature)]
    if metres and reading.metre is None:
        reading.metre = metres[0]
        if others := sorted(set(metres) - {metres[0]}):
            reading.say(f"the metre changes from {metres[0]} to {', '.join(others)}: beats are counted on")
    signs = list(part.recurse().getElementsByClass(music21.key.KeySignature))
    if signs and reading.key is None:
        sign = signs[0] if isinstance(signs[0], music21.key.Key) else signs[0].asKey("major")
        tonic = sign.tonic.name.replace("-", "b")
        reading.key = canonical_key(f"{tonic} {'minor' if sign.mode == 'minor' else 'major'}")
    marks = list(part.recurse().getElementsByClass(music21.tempo.MetronomeMark))
    tempi = [mark.getQuarterBPM() for mark in marks]
    if any(tempi) and reading.tempo is None:
        reading.tempo = float(next(tempo for tempo in tempi if tempo))
    if (
        len(measures) > 1
        and measures[0].duration.quarterLength < measures[0].barDuration.quarterLength - 1e-6
    ):
        short = measures[0].number == 0 or measures[0].paddingLeft > 0
        return float(measures[1].offset) if short else 0.0
    return 0.0


def _tones(music21: Any, part: Any) -> tuple[list[Tone], int]:
    tones: list[Tone] = []
    graces = 0
    for each in part.stripTies().flatten().notes:
        if isinstance(each, music21.harmony.Harmony):  # chord symbols are chords to music21
            continue
        if each.duration.isGrace:
            graces += 1
            continue
        start, beats = float(each.offset), float(each.quarterLength)
        velocity = int(each.volume.velocity or _VELOCITY)
        if isinstance(each, music21.note.Unpitched):
            stored = getattr(each, "storedInstrument", None)
            key = getattr(stored, "percMapPitch", None) or 38
            tones.append(Tone(start, beats, int(key), velocity))
            continue
        pitches = [note.pitch for note in each.notes] if hasattr(each, "notes") else [each.pitch]
        for pitch in pitches:
            # quarter tones sound as the nearest key
            tones.append(Tone(start, beats, min(127, max(0, round(pitch.ps))), velocity))
    return tones, graces


__all__ = ["MUSICXML_SUFFIXES", "read_musicxml"]
