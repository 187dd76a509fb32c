"""Ten melodies that nobody's composer wrote, all published before 1928 and in the public domain, as text: what a model
makes of a tune that somebody brings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from rtjazz_hf.band.score import Score, ScoreNote
from rtjazz_hf.music import LeadSheet

_STEPS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_NOTE = re.compile(r"([A-G][#b]?)(\d):([\d.]+)|r:([\d.]+)")


@dataclass(frozen=True)
class Tune:
    """A melody and the chart and band it is played with.

    Attributes:
        melody: bars of `note:beats` and rests `r:beats`; what stands before the first bar line `|` is the pick-up.
        words: the prompt. band: instruments, the one that plays the melody among them.
    """

    title: str
    metre: str
    tempo: float
    key: str
    words: str
    band: tuple[str, ...]
    chart: str
    melody: str

    @property
    def name(self) -> str:
        return re.sub(r"\W+", "-", self.title.lower())

    @property
    def sheet(self) -> LeadSheet:
        """The chart with the band; it loops."""
        chart = f"{self.metre} {self.chart}"
        return LeadSheet.from_chart(
            chart, self.tempo, instruments=self.band, key=self.key, genre=_genre(self.words), title=self.title
        )

    @property
    def score(self) -> Score:
        """The melody as its file has it: straight, at one loudness, on a piano.

        Raises:
            ValueError: a bar that is not full, something that is no note.
        """
        bar = int(self.metre.split("/")[0])
        pick_up, *bars = (part.split() for part in self.melody.split("|"))
        read = [_read(token) for token in pick_up]
        at = -sum(beats for _, beats in read)
        for number, tokens in enumerate(bars, 1):
            mine = [_read(token) for token in tokens]
            if sum(beats for _, beats in mine) != bar:
                raise ValueError(f"{self.title}: bar {number} has {sum(b for _, b in mine):g} beats of {bar}")
            read += mine
        notes = []
        for midi, beats in read:
            if midi is not None:
                notes.append(ScoreNote(at, 0.9 * beats, midi, 88, "piano", "lead"))
            at += beats
        source = {"tempo": self.tempo, "metre": self.metre, "key": self.key, "title": self.title}
        return Score(tuple(notes), told=("lead", "second"), **source)

    def write(self, folder: Path) -> Path:
        """The melody as a MIDI file in a folder."""
        return self.score.to_midi(folder / f"{self.name}.mid", overwrite=True)


def _read(token: str) -> tuple[int | None, float]:
    match = _NOTE.fullmatch(token)
    if match is None:
        raise ValueError(f"{token!r} is no note such as Bb4:1.5, and no rest such as r:1")
    name, octave, beats, rest = match.groups()
    if rest is not None:
        return None, float(rest)
    key = _STEPS[name[0]] + {"": 0, "#": 1, "b": -1}[name[1:]] + 12 * (int(octave) + 1)
    return key, float(beats)


def _genre(words: str) -> str:
    return next((genre for genre in ("ballad", "bossa", "waltz", "blues") if genre in words), "swing")


TUNES = (
    Tune(
        "When the Saints Go Marching In", "4/4", 168, "F", "medium swing with trumpet",
        ("trumpet", "piano", "bass", "drums"),
        "F6 | % | % | % | F6 | % | C7 | % | F6 | F7 | Bb6 | Bbm6 | F6 | C7 | F6 | %",
        "F4:1 A4:1 Bb4:1 | C5:4 | r:1 F4:1 A4:1 Bb4:1 | C5:4 | r:1 F4:1 A4:1 Bb4:1 | C5:2 A4:2 | F4:2 A4:2 | G4:4 "
        "| r:1 A4:1 A4:1 G4:1 | F4:3 F4:1 | A4:2 C5:2 | C5:1 Bb4:3 | r:2 A4:1 Bb4:1 | C5:2 A4:2 | F4:2 G4:2 | "
        "F4:4 | r:4",
    ),
    Tune(
        "Amazing Grace", "3/4", 104, "G", "jazz waltz with tenor sax", ("tenor_sax", "piano", "bass", "brushes"),
        "G6 | G7 | C6 | G6 | G6 | Em7 | D7 | % | G6 | G7 | C6 | G6 | Em7 | D7 | G6 | %",
        "D4:1 | G4:2 B4:0.5 G4:0.5 | B4:2 A4:1 | G4:2 E4:1 | D4:2 D4:1 | G4:2 B4:0.5 G4:0.5 | B4:2 A4:1 | D5:3 | "
        "D5:2 B4:1 | D5:2 B4:0.5 G4:0.5 | B4:2 A4:1 | G4:2 E4:1 | D4:2 D4:1 | G4:2 B4:0.5 G4:0.5 | B4:2 A4:1 | "
        "G4:3 | r:3",
    ),
    Tune(
        "Greensleeves", "3/4", 132, "Am", "jazz waltz with flute", ("flute", "piano", "bass", "brushes"),
        "Am7 | % | G7 | % | Am7 | % | E7 | % | Am7 | % | G7 | % | Am7 | E7 | Am7 | % | Cmaj7 | % | G7 | % | Am7 | % | "
        "E7 | % | Cmaj7 | % | G7 | % | Am7 | E7 | Am7 | %",
        "A4:1 | C5:2 D5:1 | E5:1.5 F5:0.5 E5:1 | D5:2 B4:1 | G4:1.5 A4:0.5 B4:1 | C5:2 A4:1 | A4:1.5 G#4:0.5 A4:1 "
        "| B4:2 G#4:1 | E4:2 A4:1 | C5:2 D5:1 | E5:1.5 F5:0.5 E5:1 | D5:2 B4:1 | G4:1.5 A4:0.5 B4:1 | C5:1.5 "
        "B4:0.5 A4:1 | G#4:1.5 F#4:0.5 G#4:1 | A4:3 | A4:3 | G5:3 | G5:1.5 F#5:0.5 E5:1 | D5:2 B4:1 | G4:1.5 "
        "A4:0.5 B4:1 | C5:2 A4:1 | A4:1.5 G#4:0.5 A4:1 | B4:2 G#4:1 | E4:3 | G5:3 | G5:1.5 F#5:0.5 E5:1 | D5:2 "
        "B4:1 | G4:1.5 A4:0.5 B4:1 | C5:1.5 B4:0.5 A4:1 | G#4:1.5 F#4:0.5 G#4:1 | A4:3 | A4:2 r:1",
    ),
    Tune(
        "Auld Lang Syne", "4/4", 116, "F", "slow swing with clarinet", ("clarinet", "guitar", "bass", "brushes"),
        "F6 | C7 | F7 | Bb6 | F6 | C7 | Bb6 C7 | F6 | F6 | C7 | F7 | Bb6 | F6 | C7 | Bb6 C7 | F6",
        "C4:1 | F4:1.5 F4:0.5 F4:1 A4:1 | G4:1.5 F4:0.5 G4:1 A4:1 | F4:1.5 F4:0.5 A4:1 C5:1 | D5:3 D5:1 | C5:1.5 "
        "A4:0.5 A4:1 F4:1 | G4:1.5 F4:0.5 G4:1 A4:1 | F4:1.5 D4:0.5 D4:1 C4:1 | F4:3 D5:1 | C5:1.5 A4:0.5 A4:1 "
        "F4:1 | G4:1.5 F4:0.5 G4:1 D5:1 | C5:1.5 A4:0.5 A4:1 C5:1 | D5:3 D5:1 | C5:1.5 A4:0.5 A4:1 F4:1 | G4:1.5 "
        "F4:0.5 G4:1 A4:1 | F4:1.5 D4:0.5 D4:1 C4:1 | F4:3 r:1",
    ),
    Tune(
        "Oh Susanna", "4/4", 176, "C", "swing with vibraphone", ("vibraphone", "piano", "bass", "drums"),
        "C6 | % | % | G7 | C6 | % | C6 G7 | C6 | F6 | % | C6 | G7 | C6 | % | C6 G7 | C6",
        "C5:0.5 D5:0.5 | E5:1 G5:1 G5:1.5 A5:0.5 | G5:1 E5:1 C5:1.5 D5:0.5 | E5:1 E5:1 D5:1 C5:1 | D5:3 C5:0.5 "
        "D5:0.5 | E5:1 G5:1 G5:1.5 A5:0.5 | G5:1 E5:1 C5:1.5 D5:0.5 | E5:1 E5:1 D5:1 D5:1 | C5:4 | F5:2 F5:2 | "
        "A5:1 A5:2 A5:1 | G5:1 G5:1 E5:1 C5:1 | D5:3 C5:0.5 D5:0.5 | E5:1 G5:1 G5:1.5 A5:0.5 | G5:1 E5:1 C5:1.5 "
        "D5:0.5 | E5:1 E5:1 D5:1 D5:1 | C5:3 r:1",
    ),
    Tune(
        "Scarborough Fair", "3/4", 120, "Dm", "jazz waltz with alto sax", ("alto_sax", "piano", "bass", "brushes"),
        "Dm7 | % | C6 | Dm7 | F6 | Am7 | G7 | Am7 | Dm7 | % | F6 | % | C6 | Dm7 | C6 | % | Dm7 | %",
        "| D4:2 D4:1 | A4:2 A4:1 | E4:1.5 F4:0.5 E4:1 | D4:3 | r:1 A4:1 C5:1 | D5:2 C5:1 | A4:1 B4:1 G4:1 | A4:3 "
        "| r:2 D5:1 | D5:2 D5:1 | C5:2 A4:1 | A4:1 G4:1 F4:1 | E4:1 C4:2 | D4:2 A4:1 | G4:2 F4:1 | E4:1 D4:1 C4:1 "
        "| D4:3 | r:3",
    ),
    Tune(
        "My Bonnie Lies over the Ocean", "3/4", 138, "C", "jazz waltz with piano", ("piano", "bass", "drums"),
        "C6 | F6 | C6 | % | C6 | % | D7 | G7 | C6 | F6 | C6 | % | Dm7 | G7 | C6 | %",
        "G4:1 | E5:1.5 D5:0.5 C5:1 | D5:1 C5:1 A4:1 | G4:1 E4:2 | r:2 G4:1 | E5:1.5 D5:0.5 C5:1 | C5:1 B4:1 C5:1 "
        "| D5:3 | r:2 G4:1 | E5:1.5 D5:0.5 C5:1 | D5:1 C5:1 A4:1 | G4:1 E4:2 | r:2 G4:1 | A4:1 D5:1 C5:1 | B4:1 "
        "A4:1 B4:1 | C5:3 | r:3",
    ),
    Tune(
        "Aura Lee", "4/4", 92, "F", "ballad with trombone", ("trombone", "piano", "bass", "brushes"),
        "F6 | G7 | C7 | F6 | F6 | G7 | C7 | F6 | F6 | A7 | Bb6 | F6 | D7 | G7 | C7 | F6",
        "| C4:1 F4:1 E4:1 F4:1 | G4:1 D4:1 G4:2 | F4:1 E4:1 D4:1 E4:1 | F4:4 | C4:1 F4:1 E4:1 F4:1 | G4:1 D4:1 "
        "G4:2 | F4:1 E4:1 D4:1 E4:1 | F4:4 | A4:1 A4:1 A4:2 | A4:1 A4:1 A4:2 | A4:1 G4:1 F4:1 G4:1 | A4:4 | A4:1 "
        "A4:1 Bb4:1 A4:1 | G4:1 D4:1 G4:2 | F4:1 E4:1 A4:1 G4:1 | F4:4",
    ),
    Tune(
        "Silent Night", "3/4", 96, "C", "slow jazz waltz with guitar", ("guitar", "bass", "brushes"),
        "C6 | % | % | % | G7 | % | C6 | % | F6 | % | C6 | % | F6 | % | C6 | % | G7 | % | C6 | Am7 | C6 | G7 | C6 | %",
        "| G4:1.5 A4:0.5 G4:1 | E4:3 | G4:1.5 A4:0.5 G4:1 | E4:3 | D5:2 D5:1 | B4:3 | C5:2 C5:1 | G4:3 | A4:2 "
        "A4:1 | C5:1.5 B4:0.5 A4:1 | G4:1.5 A4:0.5 G4:1 | E4:3 | A4:2 A4:1 | C5:1.5 B4:0.5 A4:1 | G4:1.5 A4:0.5 "
        "G4:1 | E4:3 | D5:2 D5:1 | F5:1.5 D5:0.5 B4:1 | C5:3 | E5:3 | C5:1 G4:1 E4:1 | G4:1.5 F4:0.5 D4:1 | C4:3 "
        "| r:3",
    ),
    Tune(
        "Ode to Joy", "4/4", 144, "C", "bossa nova with muted trumpet", ("muted_trumpet", "guitar", "bass", "drums"),
        "C6 | G7 | C6 | G7 | C6 | G7 | C6 | G7 C6 | G7 | % | C6 | G7 | C6 | G7 | C6 | G7 C6",
        "| E5:1 E5:1 F5:1 G5:1 | G5:1 F5:1 E5:1 D5:1 | C5:1 C5:1 D5:1 E5:1 | E5:1.5 D5:0.5 D5:2 | E5:1 E5:1 F5:1 "
        "G5:1 | G5:1 F5:1 E5:1 D5:1 | C5:1 C5:1 D5:1 E5:1 | D5:1.5 C5:0.5 C5:2 | D5:1 D5:1 E5:1 C5:1 | D5:1 "
        "E5:0.5 F5:0.5 E5:1 C5:1 | D5:1 E5:0.5 F5:0.5 E5:1 D5:1 | C5:1 D5:1 G4:2 | E5:1 E5:1 F5:1 G5:1 | G5:1 "
        "F5:1 E5:1 D5:1 | C5:1 C5:1 D5:1 E5:1 | D5:1.5 C5:0.5 C5:2",
    ),
)  # fmt: skip

__all__ = ["TUNES", "Tune"]
