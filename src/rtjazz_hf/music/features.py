"""Per-frame features of a lead sheet: tables over chord changes and sections, then one vectorised look-up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .chords import Chord
from .vocabulary import INSTRUMENTS, KITS, ROLES, is_minor

if TYPE_CHECKING:
    from .lead_sheet import LeadSheet

FRAME_RATE = 75  # frames a second: 48,000 Hz / 640 samples
CHANGE_HORIZON_S = 4.0  # a chord change further away than this reads as 1.0
LONG_REST = 2  # bars without a chord, from which on the others leave the drums alone

_LAYOUT: tuple[tuple[str, int], ...] = (
    ("chord", 12),  # pitch classes of the chord
    ("bass", 12),
    ("root", 12),
    ("next_chord", 12),  # the chord that sounds one beat later
    ("next_bass", 12),
    ("no_chord", 1),
    ("beat_phase", 4),  # sine and cosine of once and twice the beat phase
    ("beat_pulse", 1),  # 1 on the beat, falling off
    ("offbeat_pulse", 1),  # 1 on the swung off-beat
    ("bar_phase", 2),
    ("beat_in_bar", 4),
    ("waltz", 1),
    ("tempo", 1),  # log2(tempo / 120)
    ("swing", 1),
    ("change", 1),  # time to the next chord change, 0 to 1 (4 s)
    ("instruments", len(INSTRUMENTS)),
    ("lead", len(INSTRUMENTS)),
    ("role", len(ROLES)),
)


def slices_of(layout: tuple[tuple[str, int], ...]) -> dict[str, slice]:
    """Where each part of a layout of (name, width) stands among its columns."""
    slices, start = {}, 0
    for name, width in layout:
        slices[name] = slice(start, start + width)
        start += width
    return slices


FEATURE_SLICES: dict[str, slice] = slices_of(_LAYOUT)
LEAD_SHEET_DIM: int = sum(width for _, width in _LAYOUT)

_CHORD_COLUMNS = slice(FEATURE_SLICES["chord"].start, FEATURE_SLICES["root"].stop)
_NEXT_COLUMNS = slice(FEATURE_SLICES["next_chord"].start, FEATURE_SLICES["next_bass"].stop)
_BAND_COLUMNS = slice(FEATURE_SLICES["instruments"].start, FEATURE_SLICES["role"].stop)
_CHORD_NAMES = ("chord", "bass", "root", "next_chord", "next_bass", "no_chord", "change")
_FULL_TURN = 2.0 * np.pi


def without_chords(features):
    """Features `(..., LEAD_SHEET_DIM)`, an array or tensor, with beat and band kept and no word about chords.

    Not the same as N.C., which says that no chord sounds; this says nothing.
    """
    kept = features.copy() if isinstance(features, np.ndarray) else features.clone()
    for name in _CHORD_NAMES:
        kept[..., FEATURE_SLICES[name]] = 0
    return kept


def rotated_chords(features, semitones: int):
    """Features `(..., LEAD_SHEET_DIM)`, an array or tensor, with every chord and bass note transposed."""
    turned = features.copy() if isinstance(features, np.ndarray) else features.clone()
    for name in _CHORD_NAMES[:5]:
        columns = (np.arange(12) - semitones) % 12 + FEATURE_SLICES[name].start
        turned[..., FEATURE_SLICES[name]] = features[..., columns]
    return turned


@dataclass(frozen=True, eq=False)
class LeadSheetTables:
    """What a sheet looks like between its changes. Row -1 of each table stands for "nobody plays"."""

    num_beats: float
    loops: bool
    span_starts: np.ndarray  # (spans,) beats
    span_changes: (
        np.ndarray
    )  # (spans,) beat of the next different chord; beyond num_beats where it is in the next loop
    chord_rows: np.ndarray  # (spans + 1, 36) chord, bass, root
    next_rows: np.ndarray  # (spans + 1, 24) the same chord as "next chord"
    section_starts: np.ndarray  # (sections,) beats
    section_rows: np.ndarray  # (sections + 1, 38) instruments, lead, role
    span_rests: np.ndarray  # (spans,) whether there is no chord there for `LONG_REST` bars or more
    rest_rows: np.ndarray  # (sections + 1, 38) as section_rows, the drums alone where there are any
    has_drums: np.ndarray  # (sections + 1,)
    home_row: np.ndarray  # (36,) the chord of the key
    span_bands: np.ndarray | None = None  # (spans + 1,) 0 the section's band, 1 its lead alone, 2 nobody
    pulses: np.ndarray | None = None  # (pulses, 5) of metres that are not plain 3/4 or 4/4: see `_pulse_table`

    @classmethod
    def build(cls, sheet: LeadSheet) -> LeadSheetTables:
        spans, sections = sheet.spans, sheet.sections
        chord_rows = np.zeros((len(spans) + 1, 36), dtype=np.float32)
        for row, span in enumerate(spans):
            chord_rows[row] = _chord_row(span.chord)
        section_rows = np.zeros((len(sections) + 1, 2 * len(INSTRUMENTS) + len(ROLES)), dtype=np.float32)
        for row, section in enumerate(sections):
            section_rows[row, [INSTRUMENTS.index(name) for name in section.instruments]] = 1.0
            if section.lead is not None:
                section_rows[row, len(INSTRUMENTS) + INSTRUMENTS.index(section.lead)] = 1.0
            section_rows[row, 2 * len(INSTRUMENTS) + ROLES.index(section.role)] = 1.0
        starts = np.concatenate([[0.0], np.cumsum([span.beats for span in spans])])
        return cls(
            num_beats=sheet.num_beats,
            loops=sheet.loops,
            span_starts=starts[:-1],
            span_changes=_changes(sheet, starts),
            chord_rows=chord_rows,
            next_rows=np.ascontiguousarray(chord_rows[:, :24]),
            section_starts=np.array([section.start_beat for section in sections], dtype=np.float64),
            section_rows=section_rows,
            span_bands=_span_bands(sheet),
            pulses=_pulse_table(sheet),
            span_rests=long_rests(sheet),
            rest_rows=_drums_alone(section_rows),
            has_drums=section_rows[:, [INSTRUMENTS.index(name) for name in KITS]].any(axis=1),
            home_row=_chord_row(Chord.parse(sheet.key + "7" if is_minor(sheet.key) else sheet.key + "maj7")),
        )

    def fold(self, beats: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Absolute beats -> beats within the pass, and whether anything is played there."""
        plays = beats >= 0.0
        if self.loops:
            return np.where(plays, beats - np.floor(beats / self.num_beats) * self.num_beats, 0.0), plays
        return np.clip(beats, 0.0, self.num_beats), plays & (beats < self.num_beats)

    def span_index(self, folded: np.ndarray, plays: np.ndarray) -> np.ndarray:
        """Row of the chord tables at each folded beat; -1 where nothing is played."""
        return np.where(plays, np.searchsorted(self.span_starts, folded, side="right") - 1, -1)

    def section_index(self, folded: np.ndarray, plays: np.ndarray) -> np.ndarray:
        return np.where(plays, np.searchsorted(self.section_starts, folded, side="right") - 1, -1)

    def locate(self, beat: float) -> tuple[int | None, int | None]:
        """Indices of the span and section at an absolute beat; None where nothing is played."""
        folded, plays = self.fold(np.array([beat]))
        if not plays[0]:
            return None, None
        return int(self.span_index(folded, plays)[0]), int(self.section_index(folded, plays)[0])

    def chord_end(self, beat: float) -> float:
        """Absolute beat at which the span that sounds at `beat` ends; infinite after the end."""
        if beat < 0.0:
            return 0.0
        if not self.loops and beat >= self.num_beats:
            return np.inf
        turn = np.floor(beat / self.num_beats) * self.num_beats
        after = int(np.searchsorted(self.span_starts, beat - turn, side="right"))
        return float(turn + (self.span_starts[after] if after < len(self.span_starts) else self.num_beats))


def _span_bands(sheet: LeadSheet) -> np.ndarray | None:
    if all(span.kind in ("play", "hold") for span in sheet.spans):
        return None
    return np.array([{"rest": 2, "break": 1}.get(span.kind, 0) for span in sheet.spans] + [0])


def _pulse_table(sheet: LeadSheet) -> np.ndarray | None:
    """Start, length, place in its group, beats of the group, and mean length in the bar, of each felt beat of a pass.

    A model knows bars of three and four beats: a 5/4 bar reads as three beats and two, 12/8 as four swung ones. None
    where the sheet has plain bars of three or four.
    """
    if not sheet.metres and sheet.beats_per_bar in (3, 4):
        return None
    rows = []
    for bar in range(sheet.num_bars):
        metre, start = sheet.metre_of(bar), sheet.bar_start(bar)
        mean = metre.beats / len(metre.pulses)
        rows += [(start + at, length, place, size, mean) for at, length, place, size in metre.pulses]
    return np.array(rows, dtype=np.float64)


def _chord_row(chord: Chord) -> np.ndarray:
    row = np.zeros(36, dtype=np.float32)
    row[list(chord.pitch_classes)] = 1.0
    if chord.root is not None and chord.bass is not None:
        row[12 + chord.bass] = 1.0
        row[24 + chord.root] = 1.0
    return row


def long_rests(sheet: LeadSheet) -> np.ndarray:
    """Which spans lie in a stretch without a chord of `LONG_REST` bars or more, over the end of a loop too."""
    rests = np.array([span.chord.is_no_chord for span in sheet.spans])
    if rests.all():
        return rests
    long, count = np.zeros(len(rests), dtype=bool), len(rests)
    first = int(np.argmin(rests)) if sheet.loops else 0  # begin at a chord: no stretch is cut in two
    stretch: list[int] = []
    for index in [(first + step) % count for step in range(count)] + [None]:
        if index is not None and rests[index]:
            stretch.append(index)
            continue
        if sum(sheet.spans[each].beats for each in stretch) >= LONG_REST * sheet.beats_per_bar:
            long[stretch] = True
        stretch = []
    return long


def _drums_alone(section_rows: np.ndarray) -> np.ndarray:
    rows, kits = section_rows.copy(), [INSTRUMENTS.index(name) for name in KITS]
    columns = [*kits, *(len(INSTRUMENTS) + kit for kit in kits)]
    others = [column for column in range(2 * len(INSTRUMENTS)) if column not in columns]
    with_drums = np.flatnonzero(section_rows[:, kits].any(axis=1))
    rows[np.ix_(with_drums, others)] = 0.0
    return rows


def _changes(sheet: LeadSheet, starts: np.ndarray) -> np.ndarray:
    """For each span, the beat at which a different chord next sounds."""
    chords = [span.chord for span in sheet.spans]
    changes = np.empty(len(chords))
    if all(chord == chords[0] for chord in chords):
        return np.full(len(chords), np.inf if sheet.loops else sheet.num_beats)
    # Seen from the end of the pass, the first different chord lies in the next one.
    after = sheet.num_beats
    if sheet.loops:
        after += starts[next(i for i, chord in enumerate(chords) if chord != chords[-1])]
        after = sheet.num_beats if chords[0] != chords[-1] else after
    for index in range(len(chords) - 1, -1, -1):
        if index + 1 < len(chords) and chords[index] != chords[index + 1]:
            after = starts[index + 1]
        changes[index] = after
    return changes


def lead_sheet_features(
    sheet: LeadSheet, tables: LeadSheetTables, start_frame: int, num_frames: int
) -> np.ndarray:
    """`(num_frames, LEAD_SHEET_DIM)` float32 for the frames from `start_frame`; see `LeadSheet.features`."""
    if start_frame < 0 or num_frames < 0:
        raise ValueError(f"features from frame {start_frame}, {num_frames} frames: both must be 0 or more")
    frames = np.arange(start_frame, start_frame + num_frames, dtype=np.float64)
    # The small step up keeps a frame that falls on a beat from rounding to just before it.
    beats = sheet.beat_offset + frames * (sheet.tempo / (60.0 * FRAME_RATE)) + 1e-9
    folded, plays = tables.fold(beats)
    span = tables.span_index(folded, plays)
    later = tables.span_index(*tables.fold(beats + 1.0))
    section = tables.section_index(folded, plays)

    offbeat, swing, tempo = sheet.offbeat, sheet.swing, sheet.tempo
    if tables.pulses is None:
        whole = np.floor(beats)
        phase = beats - whole
        beat_in_bar = np.mod(whole, sheet.beats_per_bar)
        bar_turn = _FULL_TURN * (beat_in_bar + phase) / sheet.beats_per_bar
        waltz = float(sheet.beats_per_bar == 3)
    else:
        beat = _felt(sheet, tables.pulses, beats)
        phase, beat_in_bar = beat["phase"], beat["place"]
        bar_turn = _FULL_TURN * (beat_in_bar + phase) / np.where(beat["size"] == 3, 3, 4)
        waltz = (beat["size"] == 3).astype(np.float64)
        tempo = sheet.tempo / beat["mean"]
        compound = beat["mean"] > 1.25  # a dotted beat falls into three: swung as far as can be
        offbeat, swing = np.where(compound, 2.0 / 3.0, sheet.offbeat), np.where(compound, 1.0, sheet.swing)
        later = tables.span_index(*tables.fold(beats + beat["length"]))
    to_change = np.where(plays, tables.span_changes[span] - folded, np.where(beats < 0.0, -beats, np.inf))

    out = np.zeros((num_frames, LEAD_SHEET_DIM), dtype=np.float32)
    # Where there is no chord for long, who plays chords is told to be silent and the drums are not. They are given the
    # chord of the key, which nobody is there to play: without any chord for bars no take is, and all dies away.
    rests = plays & tables.span_rests[span] & tables.has_drums[section]
    rests_later = (later >= 0) & tables.span_rests[later] & tables.has_drums[section]
    out[:, _CHORD_COLUMNS] = np.where(rests[:, None], tables.home_row, tables.chord_rows[span])
    out[:, _NEXT_COLUMNS] = np.where(rests_later[:, None], tables.home_row[:24], tables.next_rows[later])
    out[:, FEATURE_SLICES["no_chord"].start] = ~out[:, FEATURE_SLICES["root"]].any(axis=1)
    column = FEATURE_SLICES["beat_phase"].start
    for octave in (1.0, 2.0):
        out[:, column] = np.sin(octave * _FULL_TURN * phase)
        out[:, column + 1] = np.cos(octave * _FULL_TURN * phase)
        column += 2
    out[:, FEATURE_SLICES["beat_pulse"].start] = np.exp(-6.0 * phase)
    out[:, FEATURE_SLICES["offbeat_pulse"].start] = np.exp(-6.0 * np.mod(phase - offbeat, 1.0))
    out[:, FEATURE_SLICES["bar_phase"].start] = np.sin(bar_turn)
    out[:, FEATURE_SLICES["bar_phase"].start + 1] = np.cos(bar_turn)
    out[np.arange(num_frames), FEATURE_SLICES["beat_in_bar"].start + beat_in_bar.astype(np.int64)] = 1.0
    out[:, FEATURE_SLICES["waltz"].start] = waltz
    out[:, FEATURE_SLICES["tempo"].start] = np.log2(tempo / 120.0)
    out[:, FEATURE_SLICES["swing"].start] = swing
    out[:, FEATURE_SLICES["change"].start] = np.minimum(
        to_change * (60.0 / sheet.tempo / CHANGE_HORIZON_S), 1.0
    )
    out[:, _BAND_COLUMNS] = np.where(rests[:, None], tables.rest_rows[section], tables.section_rows[section])
    if tables.span_bands is not None:
        _silence(out, np.where(rests, 0, tables.span_bands[span]))
    return out


def _felt(sheet: LeadSheet, pulses: np.ndarray, beats: np.ndarray) -> dict[str, np.ndarray]:
    """The felt beat that each beat lies in: its phase, length, place in its group, and so on."""
    first = sheet.metre_of(0).beats
    within = np.where(beats < 0.0, np.mod(beats, first), np.mod(beats, sheet.num_beats))
    row = pulses[np.searchsorted(pulses[:, 0], within, side="right") - 1]
    phase = np.clip((within - row[:, 0]) / row[:, 1], 0.0, 1.0 - 1e-9)
    size = row[:, 3]
    place = np.where(size <= 4, row[:, 2], np.mod(row[:, 2], 4))
    return {"phase": phase, "length": row[:, 1], "place": place, "size": size, "mean": row[:, 4]}


def _silence(out: np.ndarray, bands: np.ndarray) -> None:
    """Take out of the band who does not play: everybody in a rest, all but the lead in a break."""
    instruments, lead = FEATURE_SLICES["instruments"], FEATURE_SLICES["lead"]
    out[bands == 2, instruments.start : lead.stop] = 0.0
    alone = bands == 1
    out[alone, instruments] = out[alone, lead]
