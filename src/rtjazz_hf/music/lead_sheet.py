"""The lead sheet: chords, time and arrangement of a performance, and what the models see of it per frame."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .chart import ChordSpan, check_beats_per_bar, format_chart, metre_of_beats, parse_chart
from .chords import Chord
from .features import LeadSheetTables, lead_sheet_features
from .key_finding import estimate_key
from .metre import Metre
from .practice import with_rests
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
        beats_per_bar: quarter notes of a bar: 3 or 4, or another number; of most bars, where `metres` says more.
        swing: place of the off-beat: 0 = straight quavers (half-way), 1 = triplets (two thirds).
        sections: the arrangement, back to back from beat 0 to the end.
        key: one of `KEYS`. genre: one of `GENRES`. mood: one of `MOODS`.
        title: free text.
        loops: whether the sheet starts again after its end.
        beat_offset: the beat that sounds at t = 0 s.
        metres: the metre of each bar of a pass, such as `("5/4", "5/4", "6/8")`; empty where all bars have
            `beats_per_bar` quarter notes and nothing else is to be said of them.
    """

    spans: tuple[ChordSpan, ...]
    tempo: float
    beats_per_bar: float
    swing: float
    sections: tuple[Section, ...]
    key: str
    genre: str
    mood: str
    title: str = ""
    loops: bool = True
    beat_offset: float = 0.0
    metres: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("spans", tuple(self.spans))
        put("sections", tuple(self.sections))
        put("tempo", check_tempo(self.tempo))
        put("beats_per_bar", check_beats_per_bar(self.beats_per_bar))
        put("metres", tuple(self.metres))
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
        put("metres", self._checked_metres(total))
        if not self.metres and abs(total / self.beats_per_bar - round(total / self.beats_per_bar)) > _NEAR:
            raise ValueError(
                f"the chords last {total:g} beats: not a whole number of {metre_of_beats(self.beats_per_bar)} bars"
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

    def _checked_metres(self, total: float) -> tuple[str, ...]:
        """`metres`, or nothing where they say no more than `beats_per_bar`."""
        metres = [Metre.parse(metre) for metre in self.metres]
        if not metres or set(metres) == {metre_of_beats(self.beats_per_bar)}:
            if metres and abs(total - len(metres) * self.beats_per_bar) > _NEAR:
                raise ValueError(f"the chords last {total:g} beats, and there are {len(metres)} metres of bars")
            return ()
        length = math.fsum(metre.beats for metre in metres)
        if abs(total - length) > _NEAR * len(metres):
            raise ValueError(
                f"the chords last {total:g} beats and the {len(metres)} bars {length:g}: they must end together"
            )
        if self.beats_per_bar not in (metre.beats for metre in metres):
            raise ValueError(f"no bar of the sheet has {self.beats_per_bar:g} beats, as beats_per_bar says")
        return tuple(str(metre) for metre in metres)

    @classmethod
    def from_chart(
        cls,
        text: str,
        tempo: float | None = None,
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

        `tempo` is 120, `key` is estimated from the chords and `swing` follows genre and tempo, where neither they nor
        the chart say otherwise;
        `instruments` is piano, bass and drums by default, and the first that can lead has the lead.
        """
        chart = parse_chart(text, beats_per_bar)
        band = canonical_instruments(DEFAULT_BAND if instruments is None else instruments)
        lead = choose_lead(band)
        tempo = check_tempo((chart.tempo or 120.0) if tempo is None else tempo)
        swing = chart.swing if swing is None else swing
        sheet = cls(
            spans=chart.spans,
            tempo=tempo,
            beats_per_bar=chart.beats_per_bar,
            swing=default_swing(genre, tempo) if swing is None else swing,
            sections=(Section("head", 0.0, float(chart.num_beats), band, lead),),
            key=(chart.key or estimate_key(chart.spans)) if key is None else key,
            genre=genre,
            mood=mood,
            title=title or chart.title,
            loops=loops,
            metres=tuple(str(metre) for metre in chart.metres),
        )
        return with_rests(sheet, chart.rests, len(chart.bars))

    @cached_property
    def num_beats(self) -> float:
        """Length of one pass in beats: a whole number of bars."""
        if self.metres:
            return float(self.bar_lines[-1])
        total = math.fsum(span.beats for span in self.spans)
        return float(round(total / self.beats_per_bar) * self.beats_per_bar)

    @property
    def num_bars(self) -> int:
        return len(self.metres) or round(self.num_beats / self.beats_per_bar)

    @cached_property
    def bar_lines(self) -> np.ndarray:
        """`(num_bars + 1,)` beats at which the bars of one pass begin, and its end."""
        if self.metres:
            return np.concatenate([[0.0], np.cumsum([Metre.parse(metre).beats for metre in self.metres])])
        return np.arange(self.num_bars + 1, dtype=np.float64) * self.beats_per_bar

    def metre_of(self, bar: int) -> Metre:
        """The metre of a bar, counted from 0 and on through loops; before the start, that of the first bar."""
        if not self.metres:
            return metre_of_beats(self.beats_per_bar)
        return Metre.parse(self.metres[bar % len(self.metres) if bar >= 0 else 0])

    def bar_at(self, beat: float) -> tuple[int, float]:
        """The bar that sounds at `beat`, counted from 0 and on through loops, and the beats since it began."""
        if not self.metres:
            bar = math.floor(beat / self.beats_per_bar)
            return bar, max(0.0, beat - bar * self.beats_per_bar)
        if beat < 0.0:
            first = self.metre_of(0).beats
            bar = math.floor(beat / first)
            return bar, max(0.0, beat - bar * first)
        turn = math.floor(beat / self.num_beats)
        within = beat - turn * self.num_beats
        bar = min(int(np.searchsorted(self.bar_lines, within, side="right")) - 1, self.num_bars - 1)
        return turn * self.num_bars + bar, within - float(self.bar_lines[bar])

    def bars_at(self, beats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As `bar_at`, of many beats."""
        first = self.metre_of(0).beats
        bars = np.floor(beats / first).astype(np.int64)
        within = beats - bars * first
        if self.metres:
            turn = np.floor(beats / self.num_beats)
            folded = beats - turn * self.num_beats
            index = np.clip(np.searchsorted(self.bar_lines, folded, side="right") - 1, 0, self.num_bars - 1)
            bars = np.where(beats < 0.0, bars, turn.astype(np.int64) * self.num_bars + index)
            within = np.where(beats < 0.0, within, folded - self.bar_lines[index])
        return bars, np.maximum(within, 0.0)

    def bar_start(self, bar: int) -> float:
        """The beat at which a bar begins; the inverse of `bar_at`."""
        if not self.metres:
            return float(bar * self.beats_per_bar)
        if bar < 0:
            return bar * self.metre_of(0).beats
        turn, within = divmod(bar, self.num_bars)
        return turn * self.num_beats + float(self.bar_lines[within])

    def clicks(self, first: float, last: float) -> list[tuple[float, bool]]:
        """Where a metronome clicks in beats `[first, last)`: the beat, and whether it begins a bar."""
        found: list[tuple[float, bool]] = []
        bar = self.bar_at(first)[0]
        while (start := self.bar_start(bar)) < last:
            for at in self.metre_of(bar).clicks:
                if first - 1e-9 <= start + at < last - 1e-9:
                    found.append((start + at, at == 0.0))
            bar += 1
        return found

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
        bar, in_bar = self.bar_at(beat)
        in_bar = max(0.0, in_bar - 1e-9)
        span, section = self._tables.locate(beat)
        return Position(
            bar=bar + 1,
            beat=1.0 + in_bar,
            chord=Chord.no_chord() if span is None else self.spans[span].chord,
            section=None if section is None else self.sections[section],
        )

    def beat_times(self, start_s: float, duration_s: float) -> np.ndarray:
        """Times in seconds from t = 0 of the beats played in `[start_s, start_s + duration_s)`: as they are felt."""
        if any(Metre.parse(metre).unit >= 8 for metre in set(self.metres)):
            begin, end = max(0.0, self.beat_at(start_s)), self.beat_at(start_s + duration_s)
            felt = [beat for beat, _ in self.clicks(begin, end if self.loops else min(end, self.num_beats))]
            return (np.array(felt, dtype=np.float64) - self.beat_offset) * 60.0 / self.tempo
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
            ChordSpan(span.chord.transpose(semitones, sharps=key in SHARP_KEYS), span.beats, span.kind)
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
        return format_chart(self.spans, self.beats_per_bar, self.metres)

    def to_dict(self) -> dict[str, Any]:
        """The sheet in JSON's types."""
        more = {"metres": list(self.metres)} if self.metres else {}
        return {
            "chords": [
                [span.chord.symbol, float(span.beats), *([] if span.kind == "play" else [span.kind])]
                for span in self.spans
            ],
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
            **more,
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
                ChordSpan(Chord.parse(symbol), float(beats), *kind) for symbol, beats, *kind in values.pop("chords")
            )
            sections = tuple(Section(**section) for section in values.pop("sections"))
            return cls(spans=spans, sections=sections, **values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is not a lead sheet as LeadSheet.to_dict writes it: {error}") from error
