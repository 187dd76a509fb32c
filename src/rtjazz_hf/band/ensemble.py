"""The band at play: it writes its parts a few bars ahead, and answers a new lead sheet from the next beat."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ..music.features import FRAME_RATE
from ..music.lead_sheet import LeadSheet, Section
from ..music.score_features import AHEAD_S, NOTE_ROLES
from .bars import after_bars, bars_between, line_after, swung_in
from .melody import PHRASE_BARS, RANGES
from .performance import SHORTEST_S, Harmony
from .phrases import PhraseMemory
from .players import split_ending
from .score import Score, ScoreControl, ScoreNote, features_of
from .sketch import NEAR, Ensemble, Sketch, WrittenControl, WrittenNote, dice, in_choruses, settled
from .tune import Tune

PARTS = ("band", "free")
_EARLY = 1.0  # beats by which a note may be played before it is written: more than anybody plays early
_LATE = 0.25  # beats by which a note that should have begun already is still played
_OTHER_PACE = 1.25  # from so many times the tempo on, the band plays otherwise, not only faster


class Band:
    """A band that plays a lead sheet for as long as it is asked to.

        band = Band(sheet, seed=1)
        band.write(16)                                  # a Score of the notes that begin before beat 16
        band.follow(other, seconds=8.0)                 # from the next beat that was not handed out
        band.write(24)

    The same sheet, seed and updates give the same notes, however the demands are split. Heads come back with their
    theme, slightly varied; every solo chorus is new. A looping sheet of one head, as `LeadSheet.from_chart` makes it,
    is played as a head and three choruses of solos, and again (short charts several times for each of these).

    Args:
        sheet: what is played. Beats are those of the sheet, counted on through its loops.
        seed: any whole number from 0.
        melody: somebody's own part for one or several roles, of which the band then has none where it sounds. See
            `Tune` for when it is played.
        parts: "band", or "free": the band writes nothing, so that all that is told is the melody.
        seconds: when the band comes in, counted as the sheet counts.
        phrases: a player's habits, to which solos lean; without them the band plays in its own manner.
    """

    def __init__(
        self,
        sheet: LeadSheet,
        seed: int = 0,
        *,
        melody: Score | None = None,
        parts: str = "band",
        seconds: float = 0.0,
        phrases: PhraseMemory | None = None,
    ):
        self.sheet, self.seed, self.parts = sheet, seed, check_parts(parts)
        self.melody, self.phrases = melody, phrases
        self._pace = (sheet.tempo, sheet.swing)  # what the band's manners go by
        self._handed = sheet.beat_at(seconds)  # notes that begin before this beat have been handed out
        self._at = max(0.0, math.floor(self._handed + NEAR))  # what is not written yet begins here
        self._tune_from = 0.0
        self._pending: list[WrittenNote] = []  # written, and not handed out
        self._events: list[WrittenControl] = []
        self._sounding: list[ScoreNote] = []  # handed out, and perhaps still to be heard
        self._held: list[ScoreControl] = []
        self._memory: dict[str, Any] = {}
        self._last: dict[str, list[float]] = {}  # by role and player: the beat and the keys of what they struck last
        self._take_up()

    @property
    def told(self) -> tuple[str, ...]:
        """The roles that the band's score speaks of."""
        return NOTE_ROLES if self.parts == "band" else self._tune.roles if self._tune else ()

    @property
    def handed(self) -> float:
        """The beat up to which everything that begins has been handed out."""
        return self._handed

    def write(self, until: float) -> Score:
        """Hand out what begins before beat `until` and has not been handed out yet."""
        self._write_to(until)
        notes, waiting = [], []
        for each in self._pending:
            if each.beat >= until + _EARLY or (note := self._played(each)).start >= until:
                waiting.append(each)
            elif note.start > self._handed - _LATE:
                note = dataclasses.replace(note, start=max(note.start, self._handed))
                notes.append(note)
                self._remember(self._last, each)
        self._pending = waiting
        controls = [control for event in self._events if (control := self._turned(event)).start < until]
        self._events = [event for event in self._events if self._turned(event).start >= until]
        self._handed = max(self._handed, until)
        score = Score(tuple(notes), tuple(controls), self.told)
        past = self._handed - self.sheet.tempo / 60.0  # a second
        self._sounding = [n for n in (*self._sounding, *score.notes) if n.start + n.beats > past]
        self._held = _latest((*self._held, *score.controls), past)
        return score

    def features(self, start_frame: int, num_frames: int, frame_rate: float = FRAME_RATE) -> np.ndarray:
        """What the flow is told from `start_frame` on, `(num_frames, SCORE_DIM)`. Nothing is handed out by it: what
        lies ahead, and is announced in it, may still change."""
        end = self.sheet.beat_at((start_frame + num_frames) / frame_rate + AHEAD_S)
        self._write_to(end)
        coming = [self._played(note) for note in self._pending if note.beat < end + _EARLY]
        notes = [
            dataclasses.replace(note, start=max(note.start, self._handed))
            for note in coming
            if note.start > self._handed - _LATE
        ]
        controls = [self._turned(event) for event in self._events if event.beat < end + _EARLY]
        score = Score((*self._sounding, *notes), (*self._held, *controls), self.told)
        return features_of(self.sheet, *score.rows(self.sheet), self.told, start_frame, num_frames, frame_rate)

    def follow(
        self,
        sheet: LeadSheet,
        seconds: float,
        *,
        melody: Score | None = None,
        parts: str = "band",
        seed: int | None = None,
        phrases: PhraseMemory | None = None,
    ) -> None:
        """Play by these from `seconds` on, up to where everything has been handed out.

        Another tempo or swing takes what is written along. Anything else is answered from the next whole beat: the
        lines go on from where they were, and what still sounds ends there. A melody that is new joins in its place in
        the form, or from its top at the next bar line if it is over in this chorus.
        """
        seed = self.seed if seed is None else seed
        before = self.sheet
        others = (melody, parts, seed, phrases) != (self.melody, self.parts, self.seed, self.phrases)
        if sheet is before and not others:
            return
        old, new = before.beat_at(seconds), sheet.beat_at(seconds)
        same = dataclasses.replace(
            sheet, tempo=before.tempo, swing=before.swing, beat_offset=before.beat_offset, title=before.title
        ) == before  # fmt: skip
        if same and not others and abs(new - old) < 0.5:
            self.sheet, self.melody, self._handed = sheet, melody, new
            if not 1 / _OTHER_PACE < sheet.tempo / self._pace[0] < _OTHER_PACE:
                self._pace = (sheet.tempo, sheet.swing)
                self._take_up()
            return
        at = float(max(0, math.ceil(new - NEAR)))
        self._carry_over(new - old, old + at - new, at)
        tune = melody if melody != self.melody else None
        self.sheet, self.melody, self.parts, self.seed = sheet, melody, check_parts(parts), seed
        self.phrases = phrases
        self._pace, self._handed, self._at = (sheet.tempo, sheet.swing), new, at
        if abs(new - old) > NEAR:
            self._tune_from = 0.0
        self._take_up()
        if tune is not None and self._tune is not None:
            self._tune_from = self._tune.entry(at)

    def state_dict(self) -> dict[str, Any]:
        """All that the band's next notes depend on, in JSON's types."""
        return {
            "sheet": self.sheet.to_dict(),
            "melody": None if self.melody is None else self.melody.to_dict(),
            "phrases": None if self.phrases is None else self.phrases.to_dict(),
            "parts": self.parts,
            "seed": self.seed,
            "pace": list(self._pace),
            "handed": self._handed,
            "at": self._at if math.isfinite(self._at) else None,
            "tune_from": self._tune_from,
            "pending": [list(note) for note in self._pending],
            "events": [list(event) for event in self._events],
            "sounding": [list(dataclasses.astuple(note)) for note in self._sounding],
            "held": [list(dataclasses.astuple(control)) for control in self._held],
            "memory": self._memory,
            "last": self._last,
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> Band:
        """The band that `state_dict` told of.

        Raises:
            ValueError: what no band has.
        """
        try:
            melody = None if state["melody"] is None else Score.from_dict(state["melody"])
            seed = state["seed"]
            if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
                raise ValueError(f"seed {seed!r}")
            told = state.get("phrases")  # of which bands of before knew nothing
            phrases = None if told is None else PhraseMemory.from_dict(told)
            sheet = LeadSheet.from_dict(state["sheet"])
            band = cls(sheet, seed, melody=melody, parts=state["parts"], phrases=phrases)
            band._pace = tuple(_finite(value) for value in state["pace"])
            band._handed, band._tune_from = _finite(state["handed"]), _finite(state["tune_from"])
            band._at = math.inf if state["at"] is None else _finite(state["at"])
            if not band._at - band._handed >= -_EARLY or (band._at == math.inf and band.sheet.loops):
                raise ValueError(f"written up to beat {band._at:g}, handed out up to {band._handed:g}")
            band._pending = [WrittenNote(*row) for row in state["pending"]]
            band._events = [WrittenControl(*row) for row in state["events"]]
            band._sounding = [ScoreNote(*row) for row in state["sounding"]]
            band._held = [ScoreControl(*row) for row in state["held"]]
            band._memory, band._last = _checked_memory(state["memory"]), dict(state["last"])
            for struck in band._last.values():
                [_finite(value) for value in struck]
            for each in band._pending:
                band._played(each)
            for event in band._events:
                band._turned(event)
            band._take_up()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise ValueError(f"this is not the state of a band: {error}") from error
        return band

    # -- writing -------------------------------------------------------------------------------------------
    def _take_up(self) -> None:
        """Get ready to write for the sheet, the seed and the pace."""
        tempo, swing = self._pace
        chart = dataclasses.replace(self.sheet, tempo=tempo, swing=swing, beat_offset=0.0)
        chart = in_choruses(chart)
        self._chart = chart
        self._sketch = Sketch(chart, Harmony.of(chart), dice(self.seed, "band"), phrases=self.phrases)
        self._players = Ensemble(self._sketch, self.seed, self._memory)
        self._sections = split_ending(chart, self._sketch.harmony)
        self._tune = None if self.melody is None else Tune(self.melody, self.sheet)

    def _write_to(self, beat: float) -> None:
        while self._at < beat + _EARLY:
            self._write_some()

    def _write_some(self) -> None:
        """The next few bars: up to the end of a phrase of the section."""
        chart, sketch = self._chart, self._sketch
        turn = math.floor((self._at + NEAR) / chart.num_beats) if chart.loops else 0
        base = turn * chart.num_beats
        start = self._at - base
        if start >= chart.num_beats - NEAR:
            self._at = math.inf
            return
        index = max(i for i, section in enumerate(self._sections) if section.start_beat <= start + NEAR)
        section = self._sections[index]
        phrases = bars_between(chart, section.start_beat, start) // PHRASE_BARS
        stop = min(section.end_beat, after_bars(chart, section.start_beat, (phrases + 1) * PHRASE_BARS))
        sketch.begin(start, base)
        if self.parts == "band":
            if start < section.start_beat + NEAR:
                for known in self._memory.values():
                    if isinstance(known, dict):
                        known.pop("section", None)  # a soloist's phrase does not run into the next chorus
            filled = index > 0 and self._players.fills(self._sections[index - 1])
            self._players.play(section, filled, start, stop)
        written, events = settled(sketch.written, chart.tempo), sketch.events
        if self._tune is not None:
            written, events = self._with_tune(written, events, section, base + start, base + stop)
        self._pending += written
        self._events += events
        self._at = base + stop

    def _with_tune(
        self, written: list[WrittenNote], events: list[WrittenControl], section: Section, start: float, stop: float
    ) -> tuple[list[WrittenNote], list[WrittenControl]]:
        tune, kept = self._tune, []
        for note in written:
            if note.role in tune.replaced and tune.beat_at(note.beat, section.role, self._tune_from) is not None:
                continue
            kept.append(note)
        events = [
            event
            for event in events
            if not (
                event.role in tune.replaced
                and tune.beat_at(event.beat, section.role, self._tune_from) is not None
            )
        ]
        at = start
        while at < stop - NEAR:
            end = min(stop, line_after(self.sheet, at))
            first = tune.beat_at(at, section.role, self._tune_from)
            if first is not None:
                for note in tune.notes(first, first + end - at):
                    player = _player_of(note, section)
                    beat = at + max(note.start, first) - first
                    kept.append(WrittenNote(beat, note.beats, True, 0.0, note.midi, note.velocity, player, note.role))
                for control in tune.controls(first, first + end - at):
                    player, beat = _player_of(control, section), at + control.start - first
                    events.append(WrittenControl(beat, True, control.kind, control.value, player, control.role))
            at = end
        return kept, events

    def _carry_over(self, shift: float, until: float, at: float) -> None:
        """Keep what was written up to the old beat `until`, which is the new beat `at`; from there on the parts are
        written anew, by players who know where they were."""
        in_time = abs(shift - round(shift)) < 1e-3  # else what is pending stands on no beat of the new sheet
        shift = float(round(shift)) if in_time else shift
        self._pending = [
            note._replace(beat=note.beat + shift, beats=min(note.beats, until - note.beat))
            for note in self._pending
            if in_time and note.beat < until - 0.05
        ]
        self._events = [
            event._replace(beat=event.beat + shift) for event in self._events if in_time and event.beat < until - 0.05
        ]
        self._sounding = [
            dataclasses.replace(
                note, start=note.start + shift,
                beats=note.beats if note.role == "drums" else max(0.02, min(note.beats, at - note.start - shift)),
            )
            for note in self._sounding
        ]  # fmt: skip
        self._held = [dataclasses.replace(control, start=control.start + shift) for control in self._held]
        bent = {event.role: event for event in (*self._held, *self._events) if event.kind == "bend"}
        for role, event in bent.items():  # a note that was cut short in a scoop leaves no bend behind
            if event.value:
                self._events.append(WrittenControl(at, True, "bend", 0.0, event.player, role))
        last = {name: list(struck) for name, struck in self._last.items()}
        for note in sorted(self._pending):
            self._remember(last, note)
        kinds = {name: known["kind"] for name, known in self._memory.items() if name.endswith(" comping")}
        self._memory = {}
        for name, (_, *keys) in last.items():
            role, player = name.split(" ", 1)
            if role == "bass":
                self._memory["bass"] = [keys[-1]]
            elif role == "comp":
                self._memory[f"{player} comping"] = {"keys": sorted(keys)}
                if f"{player} comping" in kinds:
                    self._memory[f"{player} comping"]["kind"] = kinds[f"{player} comping"]
            elif role == "second":
                self._memory[f"{player} behind"] = keys[-1]
        if leads := {struck[0]: struck[-1] for name, struck in last.items() if name.startswith("lead ")}:
            for lead in RANGES:  # whoever leads now goes on where the lead was
                self._memory[f"{lead} solo"] = {"pitch": leads[max(leads)]}

    @staticmethod
    def _remember(last: dict[str, list[float]], note: WrittenNote) -> None:
        if note.role == "drums":
            return
        struck = last.setdefault(f"{note.role} {note.player}", [note.beat])
        if note.role != "comp" or note.beat - struck[0] > 0.1:
            struck[:] = [note.beat]
        struck.append(note.midi)

    # -- playing -------------------------------------------------------------------------------------------
    def _beat(self, beat: float, straight: bool) -> float:
        return beat if straight else swung_in(self.sheet, beat)

    def _played(self, note: WrittenNote) -> ScoreNote:
        beat = self.sheet.tempo / 60.0
        start = self._beat(note.beat, note.straight) + note.delay_s * beat
        beats = self._beat(note.beat + note.beats, note.straight) - start
        return ScoreNote(start, max(SHORTEST_S * beat, beats), note.midi, note.velocity, note.player, note.role)

    def _turned(self, event: WrittenControl) -> ScoreControl:
        return ScoreControl(
            self._beat(event.beat, event.straight), event.kind, event.value, event.player, event.role
        )


def check_parts(parts: Any) -> str:
    """`parts`, where it is "band" or "free"."""
    if parts not in PARTS:
        raise ValueError(f"parts {parts!r}: choose 'band' (a band writes the notes) or 'free' (no notes are told)")
    return parts


def _finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 2**40:
        raise ValueError(f"{value!r} is no beat")
    return float(value)


def _checked_memory(memory: Mapping[str, Any]) -> dict[str, Any]:
    """What players go on from, where it is such as `Players` keeps."""
    for name, known in memory.items():
        if name == "bass":
            (key,) = known
            _finite(key)
        elif name.endswith(" comping"):
            numbers = [*known["keys"], *(value for start, beats in known.get("rhythm", ()) for value in (start, beats))]
            [_finite(value) for value in numbers]
            if known.get("kind", "full") not in ("full", "rooted", "rootless", "shell"):
                raise ValueError(f"a voicing of kind {known['kind']!r}")
        elif name.endswith(" solo"):
            [_finite(known[each]) for each in ("pitch", "next", "section") if known.get(each) is not None]
            list(known.get("mask", ()))
        elif name.endswith(" behind"):
            _finite(known)
        else:
            raise ValueError(f"a memory of {name!r}")
    return dict(memory)


def _player_of(part: ScoreNote | ScoreControl, section: Section) -> str:
    """Who plays a note of somebody's melody: whom it names, or else whoever has that role in the section."""
    if part.player in section.instruments:
        return part.player
    if part.role == "lead" and section.lead in RANGES:
        return section.lead
    return part.player


def _latest(controls: Iterable[ScoreControl], past: float) -> list[ScoreControl]:
    """Of each role and kind the last control before `past`, and all after it."""
    latest: dict[tuple[str, str], ScoreControl] = {}
    kept = []
    for control in controls:
        if control.start < past:
            latest[control.role, control.kind] = control
        else:
            kept.append(control)
    return [*latest.values(), *kept]


def conditions_of(
    sheet: LeadSheet, part: Band | Score | None, start_frame: int, num_frames: int, score_dim: int
) -> np.ndarray:
    """`(num_frames, LEAD_SHEET_DIM + score_dim)` float32: the lead sheet and, for a flow that reads notes, what a band
    or a score tells of them; the metre alone where there is neither."""
    chords = sheet.features(start_frame, num_frames)
    if not score_dim:
        return chords
    if isinstance(part, Band):
        return np.concatenate([chords, part.features(start_frame, num_frames)], axis=-1)
    score = part or Score(told=())
    notes = features_of(sheet, *score.rows(sheet), score.told, start_frame, num_frames)
    return np.concatenate([chords, notes], axis=-1)
