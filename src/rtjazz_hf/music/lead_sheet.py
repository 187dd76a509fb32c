"""The lead sheet: chords, time and arrangement of a performance, and what the models see of it per frame."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .chart import ChordSpan, check_beats_per_bar, format_chart, parse_chart
from .chords import Chord
from .features import LeadSheetTables, lead_sheet_features
from .key_finding import estimate_key
from .vocabulary import (
    GENRES,
    MOODS,
    ROLES,
    SHARP_KEYS,
    canonical_choice,
    canonical_instruments,
    canonical_key,
    check_swing,
    check_tempo,
    choose_lead,
    default_swing,
    transpose_key,
)

DEFAULT_BAND = ("piano", "bass", "drums")
_NEAR = 1e-6  # beats; float sums of chord lengths may be this far from a whole bar


@dataclass(frozen=True)
class Section:
    """A stretch of the performance with one arrangement.

    Attributes:
        role: one of `ROLES`.
        start_beat: first beat, counted from the start of the sheet.
        beats: length in beats.
        instruments: what sounds here, in the order of `INSTRUMENTS`.
        lead: who has the melody or the solo; None where nobody does.
    """

    role: str
    start_beat: float
    beats: float
    instruments: tuple[str, ...]
    lead: str | None = None

    def __post_init__(self) -> None:
        canonical_choice("section role", self.role, ROLES)
        object.__setattr__(self, "instruments", canonical_instruments(self.instruments))
        if self.lead is not None and self.lead not in self.instruments:
            raise ValueError(
                f"lead {self.lead!r} does not play in its section: {', '.join(self.instruments) or 'nobody'}"
            )
        if not (math.isfinite(self.start_beat) and self.start_beat >= 0):
            raise ValueError(f"section start {self.start_beat!r}: expected a beat, 0 or later")
        if not (math.isfinite(self.beats) and self.beats > 0):
            raise ValueError(f"section of {self.beats!r} beats: expected a positive number of beats")

    @property
    def end_beat(self) -> float:
        return self.start_beat + self.beats


@dataclass(frozen=True)
class Position:
    """Where the music is: bar (from 1, counted on through loops), beat in the bar (the downbeat is 1.0)."""

    bar: int
    beat: float
    chord: Chord
    section: Section | None


@dataclass(frozen=True)
class LeadSheet:
    """Chords, tempo, metre and arrangement of a performance. Immutable; every change is a new sheet.

    Beats are quarter notes, counted from 0 at the first bar line. The sheet ends after `num_beats`; with
    `loops` it starts again there. Before beat 0 (a negative `beat_offset`) and after an end without loop
    there is no chord and nobody plays.

    Attributes:
        spans: the chords in order: one pass of the form, or of a whole take. They fill whole bars.
        tempo: beats per minute, 40 to 320.
        beats_per_bar: 3 or 4.
        swing: place of the off-beat: 0 = straight quavers (half-way), 1 = triplets (two thirds).
        sections: the arrangement, back to back from beat 0 to the end.
        key: one of `KEYS`. genre: one of `GENRES`. mood: one of `MOODS`.
        title: free text.
        loops: whether the sheet starts again after its end.
        beat_offset: the beat that sounds at t = 0 s.
    """

    spans: tuple[ChordSpan, ...]
    tempo: float
    beats_per_bar: int
    swing: float
    sections: tuple[Section, ...]
    key: str
    genre: str
    mood: str
    title: str = ""
    loops: bool = True
    beat_offset: float = 0.0

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("spans", tuple(self.spans))
        put("sections", tuple(self.sections))
        put("tempo", check_tempo(self.tempo))
        put("beats_per_bar", check_beats_per_bar(self.beats_per_bar))
        put("key", canonical_key(self.key))
        put("genre", canonical_choice("genre", self.genre, GENRES))
        put("mood", canonical_choice("mood", self.mood, MOODS))
        if not self.spans:
            raise ValueError(
                "a lead sheet needs at least one chord: use LeadSheet.from_chart('Dm7 | G7 | Cmaj7 | %')"
            )
        check_swing(self.swing)
        if not math.isfinite(self.beat_offset):
            raise ValueError(f"beat_offset {self.beat_offset!r}: expected a finite number of beats")
        total = math.fsum(span.beats for span in self.spans)
        if abs(total / self.beats_per_bar - round(total / self.beats_per_bar)) > _NEAR:
            raise ValueError(
                f"the chords last {total:g} beats: not a whole number of {self.beats_per_bar}/4 bars"
            )
        at = 0.0
        for section in self.sections:
            if abs(section.start_beat - at) > _NEAR:
                raise ValueError(
                    f"section {section.role!r} starts at beat {section.start_beat:g}, but the one before "
                    f"ends at {at:g}: sections follow one another from beat 0"
                )
            at = section.end_beat
        if abs(at - total) > _NEAR:
            raise ValueError(
                f"the sections last {at:g} beats and the chords {total:g}: they must end together"
            )

    @classmethod
    def from_chart(
        cls,
        text: str,
        tempo: float = 120,
        beats_per_bar: int | None = None,
        instruments: Iterable[str] | None = None,
        key: str | None = None,
        genre: str = "swing",
        mood: str = "relaxed",
        swing: float | None = None,
        title: str = "",
        loops: bool = True,
    ) -> LeadSheet:
        """A sheet of one section from a chart (see `parse_chart`); `write_lead_sheet` arranges one instead.

        `key` is estimated from the chords and `swing` follows genre and tempo where they are None;
        `instruments` is piano, bass and drums by default, and the first that can lead has the lead.
        """
        chart = parse_chart(text, beats_per_bar)
        band = canonical_instruments(DEFAULT_BAND if instruments is None else instruments)
        lead = choose_lead(band)
        tempo = check_tempo(tempo)
        return cls(
            spans=chart.spans,
            tempo=tempo,
            beats_per_bar=chart.beats_per_bar,
            swing=default_swing(genre, tempo) if swing is None else swing,
            sections=(Section("head", 0.0, float(chart.num_beats), band, lead),),
            key=estimate_key(chart.spans) if key is None else key,
            genre=genre,
            mood=mood,
            title=title,
            loops=loops,
        )

    @cached_property
    def num_beats(self) -> float:
        """Length of one pass in beats: a whole number of bars."""
        total = math.fsum(span.beats for span in self.spans)
        return float(round(total / self.beats_per_bar) * self.beats_per_bar)

    @property
    def num_bars(self) -> int:
        return round(self.num_beats / self.beats_per_bar)

    @property
    def duration(self) -> float:
        """Length of one pass in seconds."""
        return self.num_beats * 60.0 / self.tempo

    @property
    def offbeat(self) -> float:
        """Where in the beat the swung off-beat falls: 0.5 straight to 2/3 at full swing."""
        return 0.5 + self.swing / 6.0

    @property
    def instruments(self) -> tuple[str, ...]:
        """Everything that plays anywhere in the sheet."""
        return canonical_instruments(name for section in self.sections for name in section.instruments)

    @property
    def chart(self) -> str:
        return self.to_text()

    @cached_property
    def _tables(self) -> LeadSheetTables:
        return LeadSheetTables.build(self)

    def beat_at(self, seconds: float) -> float:
        """The beat that sounds at `seconds`; negative before the first bar line, counted on through loops."""
        return self.beat_offset + seconds * self.tempo / 60.0

    def time_of(self, beat: float) -> float:
        """The time in seconds at which absolute `beat` falls: the inverse of `beat_at`."""
        return (beat - self.beat_offset) * 60.0 / self.tempo

    def position(self, seconds: float) -> Position:
        """Bar, beat, chord and section at `seconds`."""
        beat = self.beat_at(seconds) + 1e-9
        bar = math.floor(beat / self.beats_per_bar)
        in_bar = max(0.0, self.beat_at(seconds) - bar * self.beats_per_bar)
        span, section = self._tables.locate(beat)
        return Position(
            bar=bar + 1,
            beat=1.0 + in_bar,
            chord=Chord.no_chord() if span is None else self.spans[span].chord,
            section=None if section is None else self.sections[section],
        )

    def beat_times(self, start_s: float, duration_s: float) -> np.ndarray:
        """Times in seconds from t = 0 of the beats played in `[start_s, start_s + duration_s)`."""
        first = max(0, math.ceil(self.beat_at(start_s) - 1e-9))
        last = math.ceil(self.beat_at(start_s + duration_s) - 1e-9)
        if not self.loops:
            last = min(last, int(self.num_beats))
        beats = np.arange(first, max(first, last), dtype=np.float64)
        return (beats - self.beat_offset) * 60.0 / self.tempo

    def chord_segments(self, start_s: float, duration_s: float) -> list[tuple[float, float, Chord]]:
        """The chords of `[start_s, start_s + duration_s)` as (start, end, chord) in seconds from t = 0.

        The segments cover the whole stretch; neighbours differ. Where nothing is played the chord is `N.C.`.
        """
        begin, end = self.beat_at(start_s), self.beat_at(start_s + duration_s)
        segments: list[tuple[float, float, Chord]] = []
        at = begin
        while at < end - 1e-9:
            span, _ = self._tables.locate(at + 1e-9)
            until = min(self._tables.chord_end(at + 1e-9), end)
            chord = Chord.no_chord() if span is None else self.spans[span].chord
            t0, t1 = self.time_of(at), self.time_of(until)
            if segments and segments[-1][2] == chord:
                segments[-1] = (segments[-1][0], t1, chord)
            else:
                segments.append((t0, t1, chord))
            at = until
        return segments

    def features(self, start_frame: int, num_frames: int) -> np.ndarray:
        """What the models see from `start_frame` on: float32 `(num_frames, LEAD_SHEET_DIM)`, 75 a second.

        A frame's features depend on its absolute number alone, so any two calls agree where they overlap.
        `FEATURE_SLICES` names the columns. No row is all zero: that stands for "no lead sheet" in training.
        """
        return lead_sheet_features(self, self._tables, start_frame, num_frames)

    def rotated(self, semitones: int) -> LeadSheet:
        """The sheet with all chords and the key `semitones` higher."""
        if semitones % 12 == 0:
            return self
        key = transpose_key(self.key, semitones)
        spans = tuple(
            ChordSpan(span.chord.transpose(semitones, sharps=key in SHARP_KEYS), span.beats)
            for span in self.spans
        )
        return dataclasses.replace(self, spans=spans, key=key)

    def without(self, *instruments: str) -> LeadSheet:
        """The sheet with `instruments` left out (music minus one); sections that they lead have no lead."""
        gone = set(canonical_instruments(instruments))
        sections = tuple(
            dataclasses.replace(
                section,
                instruments=tuple(name for name in section.instruments if name not in gone),
                lead=None if section.lead in gone else section.lead,
            )
            for section in self.sections
        )
        return dataclasses.replace(self, sections=sections)

    def with_band(self, instruments: Iterable[str]) -> LeadSheet:
        """The sheet for another band, all of whom play throughout; the first of them that can lead has the lead.

        Raises:
            ValueError: an unknown instrument, or none.
        """
        band = canonical_instruments(instruments)
        if not band:
            raise ValueError("the band is empty: name an instrument at least")
        lead = choose_lead(band)
        return dataclasses.replace(
            self,
            sections=tuple(dataclasses.replace(each, instruments=band, lead=lead) for each in self.sections),
        )

    def with_tempo(self, tempo: float) -> LeadSheet:
        """The sheet at another tempo; the swing follows where it was the usual one for genre and tempo."""
        usual = math.isclose(self.swing, default_swing(self.genre, self.tempo), abs_tol=1e-3)
        swing = default_swing(self.genre, check_tempo(tempo)) if usual else self.swing
        return dataclasses.replace(self, tempo=tempo, swing=swing)

    def to_text(self) -> str:
        """The chart as text, metre first; `parse_chart` reads the same chords at the same beats back."""
        return format_chart(self.spans, self.beats_per_bar)

    def to_dict(self) -> dict[str, Any]:
        """The sheet in JSON's types."""
        return {
            "chords": [[span.chord.symbol, float(span.beats)] for span in self.spans],
            "tempo": self.tempo,
            "beats_per_bar": self.beats_per_bar,
            "swing": float(self.swing),
            "sections": [
                {
                    "role": section.role,
                    "start_beat": float(section.start_beat),
                    "beats": float(section.beats),
                    "instruments": list(section.instruments),
                    "lead": section.lead,
                }
                for section in self.sections
            ],
            "key": self.key,
            "genre": self.genre,
            "mood": self.mood,
            "title": self.title,
            "loops": self.loops,
            "beat_offset": float(self.beat_offset),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LeadSheet:
        """The sheet that `to_dict` wrote.

        Raises:
            ValueError: naming the entry that is missing, unknown or out of range.
        """
        values = dict(data)
        known = {field.name for field in dataclasses.fields(cls)} - {"spans"} | {"chords"}
        if unknown := sorted(set(values) - known):
            raise ValueError(
                f"unknown lead sheet entries {', '.join(unknown)}: expected {', '.join(sorted(known))}"
            )
        try:
            spans = tuple(
                ChordSpan(Chord.parse(symbol), float(beats)) for symbol, beats in values.pop("chords")
            )
            sections = tuple(Section(**section) for section in values.pop("sections"))
            return cls(spans=spans, sections=sections, **values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a lead sheet as LeadSheet.to_dict writes it: {error}") from error
