"""MIDI files: chords from markers and words, or else from a track of chords; tempo, metres, key and title with them."""

from __future__ import annotations

import io
from collections import defaultdict
from functools import lru_cache
from typing import Any

import numpy as np

from ..music.chart import ParsedChart
from ..music.chart_header import Header
from ..music.chords import Chord
from ..music.metre import Metre
from ..music.unfolding import MAX_BARS, WrittenBar
from ..music.vocabulary import MAX_TEMPO, MIN_TEMPO, canonical_key
from .written import Placed, bar_of, last_span, spans_of

MAX_MIDI_BYTES = 512 << 10  # some hundred thousand events: hours of playing
_DRUMS = 9
# From plain to rich; of two that fit as well the first is meant.
_QUALITIES = (
    "", "m", "7", "maj7", "m7", "m7b5", "dim7", "6", "m6", "dim", "aug", "sus4", "7sus4", "9", "maj9", "m9", "m(maj7)",
    "69", "7b9", "7#9", "13", "7#5", "m11", "maj7#11", "sus2", "5",
)  # fmt: skip


def read_midi(data: bytes) -> ParsedChart:
    """The chart of a MIDI file.

    Raises:
        ImportError: mido is not installed. ValueError: no MIDI file, or none with chords in it.
    """
    try:
        import mido
    except ImportError as error:
        raise ImportError("MIDI files need mido; run: pip install 'rtjazz-hf[charts]'") from error
    if len(data) > MAX_MIDI_BYTES:
        raise ValueError(f"a MIDI file of {len(data)} bytes: at most {MAX_MIDI_BYTES} are read for a chart")
    try:
        file = mido.MidiFile(file=io.BytesIO(data), clip=True)
    except Exception as error:  # whatever mido meets in a broken file
        raise ValueError(
            f"this is not a MIDI file that can be read ({type(error).__name__}: {error})"
        ) from None
    if file.type == 2:
        raise ValueError(
            "a MIDI file of type 2 (independent patterns) has no one chart: save it as type 0 or 1"
        )
    if file.ticks_per_beat <= 0:
        raise ValueError("a MIDI file in SMPTE time has no beats: save it with ticks per quarter note")
    events = [(at / file.ticks_per_beat, track, message) for at, track, message in _absolute(file)]
    if not events:
        raise ValueError("the MIDI file is empty")
    header = Header()
    remarks: list[str] = []
    placed, end = _written_chords(events)
    if not placed:
        placed, end = _played_chords(events, remarks)
    if not placed:
        raise ValueError(
            "the MIDI file has no chords: neither markers such as 'Dm7' nor a track that plays chords"
        )
    _take_header(events, header, remarks)
    return ParsedChart.of(_bars(events, placed, end), header, remarks)


def _absolute(file: Any) -> list[tuple[int, int, Any]]:
    found = []
    for number, track in enumerate(file.tracks):
        at = 0
        for message in track:
            at += max(0, message.time)
            found.append((at, number, message))
    return sorted(found, key=lambda entry: entry[0])


def _chord(text: str) -> Chord | None:
    words = text.replace("\x00", "").strip().strip("'\"")
    if not words or len(words) > 24 or words.lower() in ("a", "e"):
        return None
    try:
        chord = Chord.parse(words)
    except ValueError:
        return None
    return chord


def _written_chords(events: list[tuple[float, int, Any]]) -> tuple[list[Placed], float]:
    """Chords in markers, texts or words, of the kind that has most of them."""
    kinds: dict[str, list[Placed]] = defaultdict(list)
    misses: dict[str, int] = defaultdict(int)
    for at, _, message in events:
        if message.type in ("marker", "text", "lyrics", "cue_marker"):
            text = getattr(message, "text", "")
            chord = _chord(text)
            if chord is None:
                misses[message.type] += bool(text.strip())
            else:
                kinds[message.type].append((at, chord, "play"))
    if not kinds:
        return [], 0.0
    best = max(kinds, key=lambda kind: len(kinds[kind]))
    if len(kinds[best]) < 2 or len(kinds[best]) < misses[best]:  # words of a song, a letter among them
        return [], 0.0
    return kinds[best], max(at for at, _, _ in events)


def _played_chords(events: list[tuple[float, int, Any]], remarks: list[str]) -> tuple[list[Placed], float]:
    """Chords of the track that plays most notes together, a beat at a time."""
    notes: dict[tuple[int, int], list[tuple[float, float, int]]] = defaultdict(list)
    sounding: dict[tuple[int, int, int], float] = {}
    names: dict[int, str] = {}
    for at, track, message in events:
        if message.type == "track_name":
            names[track] = str(message.name)
        elif message.type in ("note_on", "note_off") and message.channel != _DRUMS:
            key = (track, message.channel, message.note)
            begun = sounding.pop(key, None)
            if begun is not None and at > begun:
                notes[key[:2]].append((begun, at, message.note))
            if message.type == "note_on" and message.velocity:
                sounding[key] = at
    if not notes:
        return [], 0.0

    def fullness(key: tuple[int, int]) -> tuple[bool, float]:
        starts = [round(begun * 4) for begun, _, _ in notes[key]]
        named = any(word in names.get(key[0], "").lower() for word in ("chord", "comp"))
        return named, len(starts) / max(1, len(set(starts)))

    best = max(notes, key=fullness)
    if fullness(best)[1] < 2.2:
        return [], 0.0
    end = max(stop for _, stop, _ in notes[best])
    if end > MAX_BARS * 16:
        raise ValueError(f"the MIDI file lasts {end:.0f} beats: at most {MAX_BARS} bars are read")
    name = names.get(best[0], "").strip()
    remarks.append(f"the chords are those that track {best[0] + 1}{f' ({name[:30]})' if name else ''} plays")
    weights = np.zeros((int(np.ceil(end)) + 1, 12))
    lowest = np.full(len(weights), 128)
    for begun, stop, pitch in notes[best]:
        for beat in range(int(begun + 0.15), int(np.ceil(stop - 0.05))):
            overlap = min(stop, beat + 1) - max(begun, beat)
            if overlap > 0.1:
                weights[beat, pitch % 12] += overlap
                lowest[beat] = min(lowest[beat], pitch)
    placed: list[Placed] = []
    for beat in range(len(weights) - 1):
        tones = frozenset(int(each) for each in np.flatnonzero(weights[beat] > 0.2))
        chord = _name(tones, int(lowest[beat]) % 12) if len(tones) >= 2 else None
        if chord is not None and (not placed or placed[-1][1] != chord):
            placed.append((float(beat), chord, "play"))
    return placed, end


@lru_cache(maxsize=4096)
def _name(tones: frozenset[int], bass: int) -> Chord | None:
    """The chord that has just these tones, or most of them, the bass as its root where it can be."""
    best: tuple[float, Chord] | None = None
    for root in range(12):
        for rank, quality in enumerate(_QUALITIES):
            chord = Chord.parse("C" + quality).transpose(root)
            wanted = set(chord.pitch_classes)
            missing = wanted - tones - {(root + 7) % 12}
            score = 2.0 * len(tones & wanted) - 3.0 * len(tones - wanted) - 2.0 * len(missing) - 0.02 * rank
            score += 1.5 * (root == bass)
            if best is None or score > best[0]:
                best = (score, chord)
    if best is None or best[0] < 3.0:
        return None
    return best[1]


def _take_header(events: list[tuple[float, int, Any]], header: Header, remarks: list[str]) -> None:
    tempi = [
        (at, 60e6 / message.tempo)
        for at, _, message in events
        if message.type == "set_tempo" and message.tempo
    ]
    if tempi and MIN_TEMPO <= tempi[0][1] <= MAX_TEMPO:
        header.tempo = round(tempi[0][1], 2)
    if len({round(tempo, 1) for _, tempo in tempi}) > 1:
        remarks.append(f"the file changes its tempo {len(tempi) - 1} times: the first is played throughout")
    for at, track, message in events:
        if message.type == "track_name" and track == 0 and not header.title and at == 0:
            header.title = str(message.name).replace("\x00", "").strip()[:80]
        if message.type == "key_signature" and header.key is None:
            header.key = canonical_key(str(message.key))


def _bars(events: list[tuple[float, int, Any]], placed: list[Placed], end: float) -> list[WrittenBar]:
    metres: list[tuple[float, Metre]] = []
    for at, _, message in events:
        if message.type == "time_signature":
            metres.append((at, Metre(message.numerator, message.denominator)))
    bars: list[WrittenBar] = []
    line, metre, index = 0.0, Metre(4, 4), 0
    at = 0
    final = max(end, placed[-1][0] + 0.5)
    while line < final - 0.26:
        while index < len(metres) and metres[index][0] <= line + 1e-6:
            metre, index = metres[index][1], index + 1
        inside: list[Placed] = []
        while at < len(placed) and placed[at][0] < line + metre.beats - 0.13:
            inside.append((round((placed[at][0] - line) * 4) / 4, *placed[at][1:]))
            at += 1
        if len(bars) >= MAX_BARS:
            raise ValueError(f"the chart has more than {MAX_BARS} bars: shorten it, charts loop anyway")
        bars.append(bar_of(spans_of(inside, metre.beats, last_span(bars)), metre, bars))
        line += metre.beats
    return bars
