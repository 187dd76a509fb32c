"""Scores and MIDI files: format 0 and 1 are read, format 1 is written, through mido.

A score counts in beats, so a file's place in seconds does not matter here: tempo changes, in whatever track, move no
note against the bar lines, and the notes are played at the lead sheet's tempo.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..audio import check_output_path
from ..music.score_features import NOTE_ROLES
from ..music.vocabulary import INSTRUMENTS, KITS, canonical_key
from ..runtime.files import whole_or_not_at_all
from .parts import PROGRAM_OF, Part, Reading, Tone
from .score import Score, plain_metre

if TYPE_CHECKING:
    from ..music.lead_sheet import LeadSheet

MIDI_SUFFIXES = (".mid", ".midi")
MAX_BYTES = 4 * 2**20
TICKS = 960  # a beat, of files that are written
DRUM_CHANNEL = 9
_BEND_RANGE = 2.0  # semitones, unless a file says another
_MOST_BEND = 24  # that synthesisers take
_UNENDED_BEATS = 4.0  # what is heard of a note that no event ends
_VIBRATO, _SWELL, _PEDAL, _RPN_HIGH, _RPN_LOW, _DATA = 1, 11, 64, 101, 100, 6
_OURS = re.compile(r"rtjazz: channel (\d+) is (\w+), (\w+)")


def import_mido() -> Any:
    try:
        import mido
    except ImportError as error:
        raise ImportError("MIDI files need mido; run: pip install 'rtjazz-hf[scores]'") from error
    return mido


# -- reading ---------------------------------------------------------------------------------------------------
def read_midi(
    file: str | os.PathLike | bytes, name: str = "the MIDI file", heard: Callable[[str], None] | None = None
) -> Score:
    """The score of a MIDI file, given by its path or its bytes.

    Roles follow the tracks' names (lead, melody, bass, drums, comp, an instrument), General MIDI programs and channel
    10; a single melodic line is the lead. What is read otherwise than it stands there is told to `heard`, or
    else warned of (`ScoreWarning`).

    Raises:
        OSError: the file cannot be read. ImportError: mido is missing.
        ValueError: it is no MIDI file, is cut short, has no notes, is of format 2 (several pieces in one file) or
            counts in SMPTE frames, which have no beats.
    """
    mido = import_mido()
    if not isinstance(file, bytes):
        name = f"'{Path(file).name}'"
        with open(file, "rb") as stream:
            file = stream.read(MAX_BYTES + 1)
    if len(file) > MAX_BYTES:
        raise ValueError(
            f"{name} has more than {MAX_BYTES // 2**20} MiB: no MIDI file of one piece is so large"
        )
    if not file.startswith(b"MThd"):
        raise ValueError(f"{name} is not a MIDI file: it does not begin with MThd")
    try:
        midi = mido.MidiFile(file=io.BytesIO(file), clip=True)
    except EOFError:
        raise ValueError(f"{name} is cut short: it ends in the middle of a track; get it again") from None
    except Exception as error:  # mido has no kind of its own for damage
        raise ValueError(f"{name} is damaged and cannot be read as MIDI ({error})") from None
    if midi.type == 2:
        raise ValueError(
            f"{name} is of format 2, several pieces in one file: save the piece you mean as format 1"
        )
    if midi.ticks_per_beat <= 0:
        raise ValueError(
            f"{name} counts time in SMPTE frames, which have no beats: export it in ticks per quarter note"
        )
    reading = Reading(name, heard)
    voices, bar_line = _events(midi, reading)
    for voice in voices.values():
        reading.parts.append(voice.part(midi.ticks_per_beat, bar_line, reading.say))
    return reading.score()


@dataclass
class _Voice:
    """What a channel plays in a track, while it is read; times in ticks."""

    name: str
    channel: int
    program: int | None = None
    player: str | None = None
    role: str | None = None
    notes: list[list] = field(default_factory=list)  # start, end or None, key, velocity
    controls: list[tuple[int, str, float]] = field(default_factory=list)
    sounding: dict[int, int] = field(default_factory=dict)  # key -> place in notes
    again: dict[int, int] = field(default_factory=dict)  # key -> times struck again while it sounded
    last: dict[int, int] = field(default_factory=dict)  # key -> the note that ended last
    pedalled: set[int] = field(default_factory=set)  # keys let go that the pedal holds
    pedal: bool = False
    rpn: tuple[int, int] = (127, 127)
    bend_range: float = _BEND_RANGE

    def on(self, tick: int, key: int, velocity: int) -> None:
        if key in self.sounding:  # struck again: a player has one such key
            if key not in self.pedalled:
                self.again[key] = self.again.get(key, 0) + 1
            self.end(tick, key)
        else:
            self.again[key] = 0
        self.sounding[key] = len(self.notes)
        self.notes.append([tick, None, key, velocity])

    def off(self, tick: int, key: int) -> None:
        if key in self.sounding and key not in self.pedalled:
            if self.pedal:
                self.pedalled.add(key)
            else:
                self.end(tick, key)
        elif (
            self.again.get(key, 0) > 0
        ):  # of two that overlapped the first to end was the first: this is the other's
            self.again[key] -= 1
            if key in self.last and key not in self.sounding:
                self.notes[self.last[key]][1] = tick

    def end(self, tick: int, key: int) -> None:
        place = self.sounding.pop(key)
        self.pedalled.discard(key)
        self.notes[place][1] = tick
        self.last[key] = place

    def control(self, tick: int, number: int, value: int) -> None:
        if number == _VIBRATO:
            self.controls.append((tick, "vibrato", value / 127))
        elif number == _SWELL:
            self.controls.append((tick, "swell", value / 127))
        elif number == _PEDAL:
            self.pedal = value >= 64
            if not self.pedal:
                for key in list(self.pedalled):
                    self.end(tick, key)
        elif number == _RPN_HIGH:
            self.rpn = (value, self.rpn[1])
        elif number == _RPN_LOW:
            self.rpn = (self.rpn[0], value)
        elif number == _DATA and self.rpn == (0, 0):
            self.bend_range = float(value)

    def part(self, ticks: int, bar_line: int, say) -> Part:
        unended = [note for note in self.notes if note[1] is None]
        for note in unended:
            note[1] = note[0] + round(_UNENDED_BEATS * ticks)
        if unended:
            say(f"{len(unended)} notes of {self.name or 'a part'!r} are never ended: each is held for "
                f"{_UNENDED_BEATS:g} beats at most")  # fmt: skip
        tones = tuple(
            Tone((start - bar_line) / ticks, max(0, end - start) / ticks, key, max(1, velocity))
            for start, end, key, velocity in self.notes
        )
        controls = tuple(((tick - bar_line) / ticks, kind, value) for tick, kind, value in self.controls)
        return Part(
            self.name, tones, controls, self.program, self.channel == DRUM_CHANNEL, self.player, self.role
        )


def _events(midi: Any, reading: Reading) -> tuple[dict[tuple[int, int], _Voice], int]:
    """The voices by track and channel, and the tick of the first bar line."""
    voices: dict[tuple[int, int], _Voice] = {}
    programs: dict[int, int] = {}  # a channel's program may stand in another track than its notes
    tempi: list[tuple[int, float]] = []
    metres: list[tuple[int, int, int]] = []
    keys: list[tuple[int, str]] = []
    for number, track in enumerate(midi.tracks):
        tick, name = 0, track.name.strip()
        ours: dict[int, tuple[str, str]] = {}
        for message in track:
            tick += message.time
            if message.type == "set_tempo":
                tempi.append((tick, 6e7 / max(1, message.tempo)))
            elif message.type == "time_signature":
                metres.append((tick, message.numerator, message.denominator))
            elif message.type == "key_signature":
                keys.append((tick, message.key))
            elif message.type == "text" and (found := _OURS.search(message.text)):
                channel, player, role = int(found[1]) - 1, found[2], found[3]
                if player in INSTRUMENTS and role in NOTE_ROLES:
                    ours[channel] = (player, role)
            elif message.is_meta or not hasattr(message, "channel"):
                continue
            else:
                voice = voices.get((number, message.channel))
                if voice is None:
                    player, role = ours.get(message.channel, (None, None))
                    voice = _Voice(name, message.channel, player=player, role=role)
                    voices[number, message.channel] = voice
                _take(voice, tick, message, programs)
    for voice in voices.values():
        if voice.program is None:
            voice.program = programs.get(voice.channel)
    if midi.tracks and midi.tracks[0].name.strip() and (midi.type == 0 or not any(n == 0 for n, _ in voices)):
        reading.title = midi.tracks[0].name.strip()
    bar_line = _metre_and_tempo(sorted(metres), sorted(tempi), keys, midi.ticks_per_beat, reading)
    return voices, bar_line


def _take(voice: _Voice, tick: int, message: Any, programs: dict[int, int]) -> None:
    if message.type == "note_on" and message.velocity > 0:
        voice.on(tick, message.note, message.velocity)
    elif message.type in ("note_on", "note_off"):
        voice.off(tick, message.note)
    elif message.type == "control_change":
        voice.control(tick, message.control, message.value)
    elif message.type == "pitchwheel":
        voice.controls.append((tick, "bend", message.pitch / 8192 * voice.bend_range))
    elif message.type == "program_change":
        if not voice.notes:
            voice.program = message.program
        programs.setdefault(message.channel, message.program)


def _metre_and_tempo(metres, tempi, keys, ticks: int, reading: Reading) -> int:
    """Leaves what the file says of both in `reading`; the tick of the first bar line."""
    bar_line = 0
    if len(metres) > 1 and metres[0][0] == 0:
        (_, count, unit), (at, next_count, next_unit) = metres[:2]
        bar, following = (round(c * 4 * ticks / u) for c, u in ((count, unit), (next_count, next_unit)))
        if at == bar < following:  # a pick-up, written as a bar of its own
            bar_line, metres = at, metres[1:]
    if metres:
        reading.metre = f"{metres[0][1]}/{metres[0][2]}"
        others = {f"{count}/{unit}" for _, count, unit in metres} - {reading.metre}
        if others:
            reading.say(
                f"the metre changes from {reading.metre} to {', '.join(sorted(others))}: beats are counted on"
            )
    if tempi:
        # the one that lasts: files begin with a default, or end in a ritardando
        held: dict[float, int] = defaultdict(int)
        for (at, tempo), (until, _) in zip(tempi, [*tempi[1:], (tempi[-1][0] + 4 * ticks, 0.0)]):
            held[round(tempo, 3)] += until - at
        reading.tempo = max(held, key=held.__getitem__)
        if len({tempo for tempo, length in held.items() if length}) > 1:
            reading.say(f"the tempo changes: the notes keep their beats and are played at one tempo "
                        f"(most of the file has {reading.tempo:g})")  # fmt: skip
    if keys:
        reading.key = canonical_key(keys[0][1])
    return bar_line


# -- writing ---------------------------------------------------------------------------------------------------
def write_midi(
    score: Score, path: str | os.PathLike, sheet: LeadSheet | None = None, overwrite: bool = False
) -> Path:
    """Write a score as a MIDI file of format 1: a track a player, swing and all as played.

    A player who has two roles has a channel for each, so that bends of the one do not bend the other.

    Args:
        sheet: whose tempo, metre, key and title the file says; the score's own by default, or else 120 in 4/4.
        overwrite: replace a file that exists.

    Raises:
        ValueError, OSError: as `audio.check_output_path` and `whole_or_not_at_all`. ImportError: mido is missing.
    """
    path = Path(path)
    check_output_path(path, MIDI_SUFFIXES, overwrite)
    data = midi_bytes(score, sheet)
    with whole_or_not_at_all(path) as partial:
        partial.write_bytes(data)
    return path


def midi_bytes(score: Score, sheet: LeadSheet | None = None) -> bytes:
    """What `write_midi` writes."""
    mido = import_mido()
    file = mido.MidiFile(type=1, ticks_per_beat=TICKS, charset="utf-8")
    tempo = sheet.tempo if sheet is not None else score.tempo or 120.0
    metre = plain_metre(sheet) if sheet is not None else score.metre or "4/4"
    key, title = (sheet.key, sheet.title) if sheet is not None else (score.key, score.title)
    count, unit = map(int, metre.split("/"))
    lead_in, pick_up = _lead_in(score, count * 4 / unit)
    track = mido.MidiTrack()
    file.tracks.append(track)
    if title:
        track.append(mido.MetaMessage("track_name", name=title))
    track.append(mido.MetaMessage("set_tempo", tempo=round(6e7 / tempo)))
    if pick_up:
        track.append(mido.MetaMessage("time_signature", numerator=pick_up, denominator=4))
    after = round(lead_in * TICKS) if pick_up else 0
    track.append(mido.MetaMessage("time_signature", numerator=count, denominator=unit, time=after))
    if sheet is not None and sheet.metres:
        track += _changes(mido, sheet, score.end_beat, lead_in - after / TICKS)
    if key is not None:
        track.append(mido.MetaMessage("key_signature", key=key))
    for player, channels in _channels(score).items():
        file.tracks.append(_track(mido, score, player, channels, lead_in))
    stream = io.BytesIO()
    file.save(file=stream)
    return stream.getvalue()


def _changes(mido: Any, sheet: LeadSheet, until: float, late: float) -> list[Any]:
    """The changes of metre up to a beat; the track has got to `late` beats before the sheet's first bar line."""
    found, said, at, bar = [], plain_metre(sheet), -round(late * TICKS), 1
    while (line := sheet.bar_start(bar)) < until:
        if (metre := plain_metre(sheet, bar)) != said:
            count, unit = map(int, metre.split("/"))
            tick = round(line * TICKS)
            found.append(mido.MetaMessage("time_signature", numerator=count, denominator=unit, time=tick - at))
            said, at = metre, tick
        bar += 1
    return found


def _lead_in(score: Score, bar: float) -> tuple[float, int]:
    """Beats before the first bar line, and the beats of a pick-up that is a bar of its own (0: there is none).

    A note that is a little early on the first beat is no pick-up; it is put on it.
    """
    first = min((note.start for note in score.notes), default=0.0)
    if first > -0.2:
        return 0.0, 0
    if -first <= bar - 1 + 1e-6:
        beats = math.ceil(-first - 1e-6)
        return float(beats), beats
    return math.ceil(-first / bar) * bar, 0


def _channels(score: Score) -> dict[str, dict[str, int]]:
    """A channel for each role of each player, in the order of the band; with more than 15 they are shared."""
    free = [channel for channel in range(16) if channel != DRUM_CHANNEL]
    found: dict[str, dict[str, int]] = {}
    taken = 0
    for player in score.players:
        roles = {note.role for note in score.notes if note.player == player}
        found[player] = {}
        for role in (role for role in NOTE_ROLES if role in roles):
            if player in KITS:
                found[player][role] = DRUM_CHANNEL
            else:
                found[player][role] = free[taken % len(free)]
                taken += 1
    return found


def _track(mido: Any, score: Score, player: str, channels: dict[str, int], lead_in: float) -> Any:
    def tick(beat: float) -> int:
        return max(0, round((beat + lead_in) * TICKS))

    events: list[tuple[int, int, Any]] = []  # tick, order within it, message
    # A fall goes further than the two semitones that a wheel has unless it is told.
    bends = [abs(control.value) for control in score.controls if control.kind == "bend"]
    reach = min(_MOST_BEND, math.ceil(max([_BEND_RANGE, *bends]) - 1e-6))
    for role, channel in channels.items():
        events.append((0, 0, mido.Message("program_change", channel=channel, program=PROGRAM_OF[player])))
        notes = [note for note in score.notes if note.player == player and note.role == role]
        following: dict[int, int] = {}
        for note in reversed(notes):  # a key that is struck again ends first: a channel has one of each
            start = tick(note.start)
            stop = max(start + 1, min(tick(note.start + note.beats), following.get(note.midi, math.inf)))
            if following.get(note.midi) == start:
                continue
            following[note.midi] = start
            events.append(
                (start, 3, mido.Message("note_on", channel=channel, note=note.midi, velocity=note.velocity))
            )
            events.append((stop, 1, mido.Message("note_off", channel=channel, note=note.midi, velocity=64)))
        controls = [control for control in score.controls if (control.player, control.role) == (player, role)]
        if reach > _BEND_RANGE:
            for number, value in ((_RPN_HIGH, 0), (_RPN_LOW, 0), (_DATA, reach)):
                events.append((0, 0, mido.Message("control_change", channel=channel, control=number, value=value)))
        for control in controls:
            events.append((tick(control.start), 2, _control(mido, control, channel, reach)))
    track = mido.MidiTrack([mido.MetaMessage("track_name", name=player.replace("_", " "))])
    for role, channel in channels.items():
        track.append(mido.MetaMessage("text", text=f"rtjazz: channel {channel + 1} is {player}, {role}"))
    at = 0
    for time, _, message in sorted(events, key=lambda event: event[:2]):
        track.append(message.copy(time=time - at))
        at = time
    return track


def _control(mido: Any, control: Any, channel: int, reach: float) -> Any:
    if control.kind == "bend":
        pitch = min(8191, max(-8192, round(control.value / reach * 8192)))
        return mido.Message("pitchwheel", channel=channel, pitch=pitch)
    number = _VIBRATO if control.kind == "vibrato" else _SWELL
    value = min(127, max(0, round(control.value * 127)))
    return mido.Message("control_change", channel=channel, control=number, value=value)


__all__ = ["MIDI_SUFFIXES", "import_mido", "midi_bytes", "read_midi", "write_midi"]
