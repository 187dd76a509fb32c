"""Melody and solos: a motivic head, bebop lines aimed at chord tones, a second voice, backgrounds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np

from ..music.chords import Chord
from ..music.lead_sheet import Section
from .bars import after_bars
from .harmony import chord_scale, guide_tones, nearest, strong_tones
from .performance import EXPRESSION, PITCH_BEND, VIBRATO, Performance

# Sounding ranges as soloists use them, MIDI keys.
RANGES = {
    "alto_sax": (53, 80), "tenor_sax": (47, 75), "trumpet": (56, 81), "muted_trumpet": (57, 80),
    "trombone": (45, 69), "clarinet": (54, 85), "flute": (64, 92), "piano": (60, 88),
    "electric_piano": (60, 86), "organ": (60, 85), "guitar": (52, 79),
    "vibraphone": (60, 87), "synth_pad": (60, 84), "bass": (31, 58),
}  # fmt: skip
WIND = frozenset({"alto_sax", "tenor_sax", "trumpet", "muted_trumpet", "trombone", "clarinet", "flute"})

PHRASE_BARS = 4

# Two-bar rhythms of a head as (onset, length) in beats.
_MOTIFS = (
    ((0.0, 1.0), (1.0, 0.5), (1.5, 1.5), (3.5, 0.5), (4.0, 2.5)),
    ((0.5, 0.5), (1.0, 0.5), (1.5, 0.5), (2.0, 1.0), (3.5, 2.5)),
    ((0.0, 1.5), (1.5, 0.5), (2.0, 1.0), (3.0, 0.5), (3.5, 1.5), (5.5, 0.5), (6.0, 1.0)),
    ((1.0, 0.5), (1.5, 0.5), (2.5, 0.5), (3.0, 1.0), (4.5, 0.5), (5.0, 2.0)),
    ((0.0, 0.5), (0.5, 0.5), (1.5, 0.5), (2.0, 0.5), (3.0, 0.5), (3.5, 1.5)),
    ((0.0, 2.0), (2.0, 1.0), (3.0, 1.0), (4.0, 3.0)),
    ((1.5, 0.5), (2.0, 0.5), (2.5, 0.5), (3.5, 1.0), (5.0, 0.5), (5.5, 1.5)),
    ((0.0, 0.5), (1.5, 0.5), (3.0, 0.5), (4.5, 0.5), (6.0, 1.0)),
)
_BOP_MOTIFS = (
    (
        (0.5, 0.5),
        (1.0, 0.5),
        (1.5, 0.5),
        (2.0, 0.5),
        (2.5, 0.5),
        (3.5, 0.5),
        (4.0, 0.5),
        (4.5, 0.5),
        (5.5, 0.5),
        (6.0, 0.5),
    ),
    (
        (0.0, 0.5),
        (0.5, 0.5),
        (1.0, 0.5),
        (1.5, 1.0),
        (3.0, 0.5),
        (3.5, 0.5),
        (4.5, 0.5),
        (5.0, 0.5),
        (5.5, 0.5),
        (6.5, 0.5),
    ),
    (
        (1.5, 0.5),
        (2.0, 0.5),
        (2.5, 0.5),
        (3.0, 0.5),
        (3.5, 1.0),
        (5.0, 0.5),
        (5.5, 0.5),
        (6.0, 0.5),
        (6.5, 0.5),
    ),
)
_BALLAD_MOTIFS = (
    ((0.0, 2.0), (2.0, 1.0), (3.0, 0.5), (3.5, 0.5), (4.0, 3.0)),
    ((0.0, 3.0), (3.0, 1.0), (4.0, 1.5), (5.5, 0.5), (6.0, 1.5)),
    ((0.5, 0.5), (1.0, 0.5), (1.5, 0.5), (2.0, 2.0), (4.0, 2.5), (7.0, 1.0)),
)
_WALTZ_MOTIFS = (
    ((0.0, 2.0), (2.0, 1.0), (3.0, 2.5)),
    ((0.0, 1.0), (1.0, 0.5), (1.5, 1.5), (3.0, 1.0), (4.0, 2.0)),
    ((0.5, 0.5), (1.0, 1.0), (2.0, 1.0), (3.0, 1.5), (4.5, 1.5)),
    ((0.0, 1.5), (1.5, 1.5), (3.0, 3.0)),
)


@dataclass(frozen=True)
class Tone:
    """One melody note before it is played: notated beat and length, key, loudness relative to the line."""

    beat: float
    beats: float
    midi: int
    accent: float = 0.0
    straight: bool = False


class HeadBook:
    """The tune. Phrases over the same chords are the same phrase, so that A sections come back, slightly
    varied."""

    def __init__(self, performance: Performance):
        self.performance = performance
        sheet = performance.sheet
        if performance.feel is not None:
            self.motifs = performance.feel.motifs(sheet.beats_per_bar)
        elif sheet.beats_per_bar == 3:
            self.motifs = _WALTZ_MOTIFS
        elif sheet.genre == "ballad" or sheet.tempo < 84:
            self.motifs = _BALLAD_MOTIFS
        elif sheet.genre in ("bebop", "rhythm_changes") and sheet.tempo > 120:
            self.motifs = _BOP_MOTIFS + _MOTIFS[:3]
        else:
            self.motifs = _MOTIFS
        self.motif = self._draw()
        self.phrases: dict[tuple, list[Tone]] = {}

    @property
    def rng(self) -> np.random.Generator:
        return self.performance.rng

    def _draw(self) -> tuple:
        return self.motifs[int(self.rng.integers(len(self.motifs)))]

    def tones(
        self, section: Section, lead: str, start: float | None = None, stop: float | None = None
    ) -> list[Tone]:
        """The tune over a section, or the phrases of it that begin between two beats, in the range of `lead`."""
        harmony, tones = self.performance.harmony, []
        low, high = RANGES[lead]
        at = section.start_beat if start is None else start
        last = section.end_beat if stop is None else stop
        while at < last - 1e-6:
            stop = min(after_bars(self.performance.sheet, at, PHRASE_BARS), section.end_beat)
            cuts = harmony.cuts(at, stop)
            name = tuple((round(a - at, 3), chord.root, chord.pitch_classes) for a, _, chord in cuts)
            for index, tone in enumerate(self.phrase(name, at, stop, lead)):
                midi = tone.midi
                if self.performance.chance(0.05) and index % 2:  # a passing thought
                    midi = nearest(
                        midi + 2, chord_scale(harmony.at(at + tone.beat)) or (midi % 12,), low, high
                    )
                while midi > high:
                    midi -= 12
                while midi < low:
                    midi += 12
                tones.append(replace(tone, beat=at + tone.beat, midi=midi))
            at = stop
        return tones

    def phrase(self, name: tuple, start: float, stop: float, lead: str) -> list[Tone]:
        """The phrase over the chords that `name` tells, written where it is first met."""
        if name not in self.phrases:
            self.phrases[name] = self.write(start, stop, *RANGES[lead])
        return self.phrases[name]

    def write(self, start: float, stop: float, low: int, high: int) -> list[Tone]:
        """A new phrase between two beats, its tones counted from the first."""
        harmony, rng = self.performance.harmony, self.rng
        two_bars = after_bars(self.performance.sheet, start, 2) - start
        motif = self.motif if rng.random() < 0.7 else self._draw()
        pitch = (low + high) / 2 + rng.normal(0, 3)
        direction = 1 if rng.random() < 0.6 else -1
        tones: list[Tone] = []
        for half in range(2):
            shape = motif if half == 0 or rng.random() < 0.65 else self._draw()
            if half == 1:
                direction = -direction if rng.random() < 0.7 else direction
            for onset, length in shape:
                beat = start + half * two_bars + onset
                if beat >= stop - 1e-6 or onset >= two_bars:
                    continue
                ahead = min(beat + 0.5, stop - 1e-6) if length >= 1 and onset % 1 else beat
                chord = harmony.at(ahead)
                if chord.root is None:
                    continue
                stable = length >= 1.0 or onset % 2 == 0
                step = rng.choice([1, 2, 3, 4, 7], p=[0.25, 0.35, 0.2, 0.15, 0.05]) * direction
                key = nearest(pitch + step, strong_tones(chord) if stable else chord_scale(chord), low, high)
                if rng.random() < 0.3 or not low + 4 < key < high - 4:
                    direction = -1 if key > (low + high) / 2 else 1
                pitch = key
                length = min(length, stop - beat)
                tones.append(Tone(beat - start, length, key, 4.0 if onset % 1 else 0.0))
        return tones


class Soloist:
    """Improvised lines: chord tones on strong beats, approaches and enclosures between them, phrases and
    rests."""

    def __init__(self, performance: Performance, lead: str):
        self.performance = performance
        self.lead = lead
        self.low, self.high = RANGES[lead]
        self.pitch: float = (self.low + self.high) / 2
        self.mask: list[bool] = []
        self.next: float | None = None  # the beat at which the next phrase may begin
        feel = performance.feel
        self.triplets = feel is not None and feel.in_triplets(performance.sheet)

    @property
    def rng(self) -> np.random.Generator:
        return self.performance.rng

    def tones(
        self, section: Section, start: float | None = None, stop: float | None = None, goes_on: bool = False
    ) -> list[Tone]:
        """A solo over a section, or the phrases of it that begin between two beats, the last of which may run on.

        `goes_on`: from where these tones' forerunners ended, `next`, rather than after a breath.
        """
        rng, feel = self.rng, self.performance.feel
        tones: list[Tone] = []
        at = section.start_beat if start is None else start
        last = section.end_beat - 1.0 if stop is None else min(stop, section.end_beat - 1.0)
        if goes_on and self.next is not None:
            at = self.next
        else:
            at += float(rng.choice([0.0, 0.5, 1.0, 1.5], p=[0.35, 0.25, 0.2, 0.2]))
        while at < last:
            hard = self.performance.intensity(section, at)
            phrase = self.phrase(section, at, hard)
            if not phrase:
                at += 1.0
                continue
            tones += phrase
            rest = float(rng.choice([0.5, 1.0, 1.5, 2.0, 3.0], p=[0.2, 0.25, 0.25, 0.2, 0.1])) * (
                1.5 - 0.8 * hard
            )
            if feel is not None:
                rest *= feel.groove.breath
            end = phrase[-1].beat + phrase[-1].beats + rest
            at = float(round(end)) if self.triplets else round(end * 2) / 2
        self.next = at
        return tones

    def phrase_beats(self) -> float:
        return float(self.rng.choice([4, 6, 8, 12, 16], p=[0.15, 0.25, 0.3, 0.2, 0.1]))

    def phrase(self, section: Section, at: float, hard: float) -> list[Tone]:
        """The phrase that begins at a beat; none where there is no chord, or no room. `hard`: 0 to 1."""
        sheet, rng, feel = self.performance.sheet, self.rng, self.performance.feel
        lyrical = 0.45 if sheet.genre in ("ballad", "modal", "cool", "bossa", "waltz") else 0.0
        if feel is not None:
            lyrical = feel.groove.lyrical
        length = self.phrase_beats()
        slow = sheet.tempo < 92 or (feel is not None and feel.step < 0.3 and sheet.tempo < 140)
        double = slow and rng.random() < 0.2 + 0.3 * hard
        unit = 1 / 3 if self.triplets else 0.25 if double else 0.5
        if lyrical and rng.random() < lyrical and not double:
            return self._lyrical(at, min(at + length, section.end_beat))
        return self._line(at, min(at + length * (0.75 if double else 1.0), section.end_beat), unit, hard)

    def _target(self, chord: Chord, direction: int) -> int:
        if self.lead == "bass":
            pitches: tuple[int, ...] = strong_tones(chord)
        else:
            pitches = (
                guide_tones(chord) + strong_tones(chord) if self.rng.random() < 0.6 else strong_tones(chord)
            )
        return nearest(
            self.pitch + direction * self.rng.integers(2, 6), pitches, self.low, self.high, int(self.pitch)
        )

    def _line(self, start: float, stop: float, unit: float, hard: float) -> list[Tone]:
        harmony, rng = self.performance.harmony, self.rng
        direction = 1 if self.pitch < (self.low + self.high) / 2 + rng.normal(0, 4) else -1
        keep = 0.78 + 0.2 * hard
        slots = round((stop - start) / unit)
        if slots < 2:
            return []
        if not (len(self.mask) == slots and rng.random() < 0.5):  # else answer in the rhythm of the call
            self.mask = [bool(rng.random() < keep) for _ in range(slots)]
        per = round(2 * unit / unit) if unit == 0.25 else round(1 / unit) * (2 if rng.random() < 0.5 else 1)
        if self.performance.feel is not None and self.performance.feel.groove.in_three and unit == 0.5:
            per = 3  # dotted quarters, or a bar of three from its first beat
        keys: list[int | None] = [None] * slots
        anchors: list[int] = []
        for index in range(slots):
            beat = start + index * unit
            changes = abs(beat - harmony.start(beat)) < 1e-6
            on_beat = abs((beat / (per * unit)) % 1.0) < 1e-6
            if not (on_beat or changes or index in (0, slots - 1)):
                continue
            chord = harmony.at(beat)
            if chord.root is None:
                continue
            if rng.random() < 0.22 or self.pitch > self.high - 5 or self.pitch < self.low + 5:
                direction = -1 if self.pitch > (self.low + self.high) / 2 else 1
            if changes and self.lead == "bass":
                keys[index] = nearest(self.pitch, (chord.bass,), self.low, self.high)
            else:
                keys[index] = self._target(chord, direction)
            self.pitch = keys[index]
            anchors.append(index)
        for first, second in itertools.pairwise(anchors):
            self._fill(keys, first, second, start, unit)
        tones = []
        for index, key in enumerate(keys):
            beat = start + index * unit
            strong = abs(beat % 1.0) < 1e-6
            if key is None or (not self.mask[index] and not (strong and index in anchors)):
                continue
            accent = (5.0 if not strong else 0.0) + (4.0 if tones and key > tones[-1].midi + 4 else 0.0)
            tones.append(Tone(beat, unit, key, accent, straight=unit < 0.5))
        if tones:
            last = tones[-1]
            hold = float(rng.choice([0.3, 0.5, 1.0, 1.5, 2.0], p=[0.25, 0.25, 0.2, 0.2, 0.1]))
            room = harmony.end(last.beat) - last.beat
            tones[-1] = replace(last, beats=min(hold, max(0.4, room)), accent=6.0)
            if unit == 0.5 and len(tones) > 4 and rng.random() < 0.35:
                self._turn(tones)
        return tones

    def _fill(self, keys: list[int | None], first: int, second: int, start: float, unit: float) -> None:
        """Notes between two targets: a scale, an arpeggio, an enclosure."""
        here, there, count = keys[first], keys[second], second - first - 1
        if count < 1:
            return
        chord = self.performance.harmony.at(start + (first + 0.5) * unit)
        scale, tones = chord_scale(chord), strong_tones(chord)
        if not scale:
            return
        between: list[int] = []
        arpeggio = self.rng.random() < 0.3
        for step in range(1, count + 1):
            ideal = here + (there - here) * step / (count + 1)
            if arpeggio and abs(there - here) < 8:  # up through the chord, and back to the target
                ideal = here + 3.6 * step if here < self.high - 12 else here - 3.6 * step
            previous = between[-1] if between else here
            between.append(nearest(ideal, tones if arpeggio else scale, self.low, self.high, avoid=previous))
        draw = self.rng.random()
        if count >= 2 and draw < 0.3:  # enclosure: from the scale above, from a half step below
            between[-2] = nearest(there + 2, scale, self.low, self.high, avoid=there)
            between[-1] = there - 1
        elif draw < 0.5:
            between[-1] = there + (-1 if between[-1] <= there else 1)
        elif between[-1] == there:
            between[-1] = nearest(
                there + (2 if here > there else -2), scale, self.low, self.high, avoid=there
            )
        keys[first + 1 : second] = [min(max(key, self.low), self.high) for key in between]

    def _turn(self, tones: list[Tone]) -> None:
        """Make one quaver a triplet turn (note, upper neighbour, note)."""
        index = int(self.rng.integers(1, len(tones) - 1))
        tone = tones[index]
        if tone.beat % 1 or tones[index + 1].beat - tone.beat > 0.51:
            return
        scale = chord_scale(self.performance.harmony.at(tone.beat)) or (tone.midi % 12,)
        upper = nearest(tone.midi + 2, scale, self.low, self.high, avoid=tone.midi)
        third = 0.22
        tones[index : index + 1] = [
            replace(tone, beats=third, straight=True),
            Tone(tone.beat + third, third, upper, -6.0, True),
            Tone(tone.beat + 2 * third, third, tone.midi, -3.0, True),
        ]

    def _lyrical(self, start: float, stop: float) -> list[Tone]:
        """A singing phrase: longer notes, chord tones held, steps between."""
        rng, harmony, tones = self.rng, self.performance.harmony, []
        at, direction = start, 1 if rng.random() < 0.5 else -1
        while at < stop - 0.4:
            chord = harmony.at(at)
            if chord.root is None:
                break
            length = float(rng.choice([0.5, 1.0, 1.5, 2.0, 3.0], p=[0.38, 0.24, 0.18, 0.13, 0.07]))
            stable = length >= 1.0
            length = min(length, stop - at, max(0.5, harmony.end(at) - at))
            step = int(rng.choice([1, 2, 3, 5], p=[0.2, 0.4, 0.25, 0.15])) * direction
            pool = strong_tones(chord) if stable else chord_scale(chord)
            key = nearest(self.pitch + step, pool, self.low, self.high, avoid=int(self.pitch))
            if rng.random() < 0.3 or not self.low + 4 < key < self.high - 4:
                direction = -1 if key > (self.low + self.high) / 2 else 1
            self.pitch = key
            tones.append(Tone(at, length, key, 3.0 if at % 1 else 0.0))
            at += length
        return tones


def second_voice(performance: Performance, tones: list[Tone], instrument: str, unison: bool) -> list[Tone]:
    """The other horn of a front line: the same tune in its range, or in harmony below."""
    low, high = RANGES[instrument]
    voice = []
    for tone in tones:
        midi = tone.midi
        if not unison:
            chord = performance.harmony.at(tone.beat)
            pool = strong_tones(chord) if tone.beats >= 1 else chord_scale(chord)
            if pool:
                midi = nearest(tone.midi - 4.5, pool, tone.midi - 9, tone.midi - 3)
        while midi > high:
            midi -= 12
        while midi < low:
            midi += 12
        voice.append(replace(tone, midi=midi, accent=tone.accent - 5))
    return voice


def background(
    performance: Performance,
    section: Section,
    instrument: str,
    start: float | None = None,
    stop: float | None = None,
    pitch: float | None = None,
) -> list[Tone]:
    """Soft guide-tone lines behind a soloist, one note a chord or two a bar, in a section or between two beats of it;
    they go on from `pitch`."""
    low, high = RANGES[instrument]
    pitch, tones = (low + high) / 2 - 2 if pitch is None else pitch, []
    begin, last = section.start_beat if start is None else start, section.end_beat if stop is None else stop
    feel = performance.feel
    if feel is not None and feel.groove.riff and performance.chance(0.6):
        return _riff(performance, feel.strokes(feel.groove.riff, performance.sheet, begin, last), pitch, low, high)
    for start, end, chord in performance.harmony.cuts(begin, last):
        if chord.root is None:
            continue
        at = start
        while at < end - 1e-6:
            stop = min(end, after_bars(performance.sheet, at, 2))
            pitch = nearest(pitch, guide_tones(chord) or strong_tones(chord), low, high)
            tones.append(Tone(at, (stop - at) * 0.9, int(pitch), -14.0))
            at = stop
    return tones


def _riff(
    performance: Performance, strokes: list[tuple[float, float, str, bool]], pitch: float, low: int, high: int
) -> list[Tone]:
    """The rhythm that horns set behind a soloist in a groove, on the tones that tell the chords."""
    tones = []
    for beat, length, _, straight in strokes:
        chord = performance.harmony.at(beat)
        if chord.root is not None:
            pitch = nearest(pitch, guide_tones(chord) or strong_tones(chord), low, high)
            beats = min(length, performance.harmony.end(beat) - beat) * 0.9
            tones.append(Tone(beat, beats, int(pitch), -11.0, straight))
    return tones


def play_tones(performance: Performance, section: Section, instrument: str, tones: list[Tone]) -> None:
    """Turn a line into notes: one at a time, legato on the beat, clipped off it, long wind notes swell and
    quiver."""
    tones = sorted(
        (tone for tone in tones if tone.beat < section.end_beat - 1e-6), key=lambda tone: tone.beat
    )
    wind = instrument in WIND
    tempo = performance.sheet.tempo
    for index, tone in enumerate(tones):
        room = (
            min(tones[index + 1].beat if index + 1 < len(tones) else section.end_beat, section.end_beat)
            - tone.beat
        )
        if room < 0.05:
            continue
        touch = 0.97 if tone.beats <= 0.5 or performance.chance(0.8) else 0.6
        if wind and tone.beats <= 0.5 and tone.beat % 1 and performance.chance(0.25):
            touch = 0.55  # a clipped off-beat
        beats = min(tone.beats * touch, room)
        hard = performance.intensity(section, tone.beat)
        arch = 5.0 * (1 - abs(2 * ((tone.beat - section.start_beat) / 16 % 1) - 1))
        velocity = 62 + 34 * hard + tone.accent + arch - 2
        performance.add(instrument, tone.beat, beats, tone.midi, velocity, straight=tone.straight, jitter=0.8)
        if not wind:
            continue
        long = beats * 60 / tempo > 0.45
        if long:
            for step in range(6):
                part = step / 5
                place = tone.beat + beats * part * 0.95
                performance.control(instrument, place, EXPRESSION, 92 + 30 * (1 - abs(2 * part - 0.9)))
                performance.control(instrument, place, VIBRATO, 70 * max(0.0, part - 0.35))
        else:
            performance.control(instrument, tone.beat, EXPRESSION, 112)
            performance.control(instrument, tone.beat, VIBRATO, 0)
        if instrument in ("alto_sax", "tenor_sax", "trombone") and long and performance.chance(0.3):
            for step, bend in enumerate((-2600, -1500, -600, 0)):  # scoop up into the note
                performance.control(instrument, tone.beat + step * 0.06 * tempo / 120, PITCH_BEND, bend)
