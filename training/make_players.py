"""Two players for the test of personal styles: ten minutes each as ordinary files, and two more minutes held out.

    python training/make_players.py --out players/

They play what the corpus has not: other instruments of a held-out sound font, voicings and phrases of their own.
PLAYER/takes is what an adapter learns from, PLAYER/held_out what it is measured against; PLAYER/charts.json says what
is played in takes, which nobody who learns from them is told.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import soundfile

from rtjazz_hf.audio import SAMPLE_RATE, WRITE_CHUNK, resample
from rtjazz_hf.band import write_lead_sheet
from rtjazz_hf.band.composer import compose
from rtjazz_hf.band.performance import Note, Take
from rtjazz_hf.corpus.renderer import HELD_OUT_FONTS, Renderer
from rtjazz_hf.runtime.files import whole_or_not_at_all
from rtjazz_hf.trainers.run import input_errors

FILES = (("wav", 44_100, 2), ("flac", 48_000, 2), ("ogg", 48_000, 2), ("mp3", 44_100, 2), ("aiff", 22_050, 1))
TAKE_SECONDS = 60.0
CHARTS = "charts.json"  # lead sheets by the name of the take


@dataclasses.dataclass(frozen=True)
class Player:
    """Whose takes they are.

    Attributes:
        lead: the instrument with the habit, `band`: all of them; presets: (bank, program) of what they sound like.
        swing, tempi, keys, genres: of the charts. phrase: what the lead makes of each of its notes.
    """

    lead: str
    band: tuple[str, ...]
    presets: dict[str, tuple[int, int]]
    swing: float
    tempi: tuple[float, float]
    keys: tuple[str, ...]
    genres: tuple[str, ...]
    phrase: Callable[[Note], list[Note]]


def octaves_behind(note: Note) -> list[Note]:
    """Octaves, a little behind the beat and held: a low, late, thick line."""
    late = dataclasses.replace(note, start_s=note.start_s + 0.03, duration_s=1.2 * note.duration_s)
    below = dataclasses.replace(late, midi=max(24, note.midi - 12), velocity=max(1, note.velocity - 6))
    return [late, below]


def repeated_short(note: Note) -> list[Note]:
    """Staccato, and long notes said twice with the fifth above: a high, dry, talkative line."""
    midi = note.midi + 12 if note.midi < 79 else note.midi
    short = dataclasses.replace(note, midi=midi, duration_s=min(0.12, note.duration_s))
    if note.duration_s < 0.3:
        return [short]
    again = dataclasses.replace(short, start_s=note.start_s + note.duration_s / 2)
    return [short, again, dataclasses.replace(again, midi=midi + 7, velocity=max(1, note.velocity - 14))]


PLAYERS = {
    "ana": Player("vibraphone", ("vibraphone", "bass", "brushes"), {"vibraphone": (0, 12), "bass": (0, 43)}, 0.9,
                  (80.0, 120.0), ("Db", "Gb", "Ab"), ("cool", "ballad"), octaves_behind),
    "ben": Player("clarinet", ("clarinet", "organ", "drums"), {"clarinet": (0, 22), "organ": (0, 21)}, 0.2,
                  (150.0, 200.0), ("A", "E", "D"), ("bebop", "hard_bop"), repeated_short),
}  # fmt: skip


def compose_take(
    player: Player, seed: int, seconds: float = TAKE_SECONDS
) -> tuple[Take, np.random.Generator]:
    """What a player plays, and the generator to render it with."""
    rng = np.random.default_rng(seed)
    sheet = write_lead_sheet(str(rng.choice(player.genres)), tempo=float(rng.uniform(*player.tempi)),
                             key=str(rng.choice(player.keys)), instruments=player.band, duration=seconds,
                             seed=seed)  # fmt: skip
    take = compose(dataclasses.replace(sheet, swing=player.swing), rng)
    line = sorted(
        (n for note in take.notes.get(player.lead, ()) for n in player.phrase(note)), key=lambda n: n.start_s
    )
    return dataclasses.replace(take, notes={**take.notes, player.lead: tuple(line)}), rng


def play(player: Player, seed: int, seconds: float = TAKE_SECONDS) -> np.ndarray:
    """One take of a player, `(2, samples)` at 48 kHz.

    Raises:
        RendererUnavailable: FluidSynth or the held-out sound font is missing.
    """
    take, rng = compose_take(player, seed, seconds)
    audio = Renderer(HELD_OUT_FONTS[0], player.presets).render(take, rng).mix
    return audio[:, : round(seconds * SAMPLE_RATE)]


def write_take(path: Path, audio: np.ndarray, rate: int, channels: int) -> None:
    """Write `(2, samples)` at another rate, in any format of soundfile, as strangers' recordings are."""
    sound = resample(audio if channels == 2 else audio.mean(0, keepdims=True), SAMPLE_RATE, rate)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        whole_or_not_at_all(path) as partial,
        soundfile.SoundFile(str(partial), "w", rate, channels, format=path.suffix[1:].upper()) as file,
    ):
        for start in range(0, sound.shape[1], WRITE_CHUNK):
            file.write(np.ascontiguousarray(sound[:, start : start + WRITE_CHUNK].T))


def make_players(out: Path, minutes: float = 10.0, held_out: float = 2.0, seed: int = 0) -> None:
    """Write PLAYER/takes, PLAYER/held_out and PLAYER/charts.json of every player below `out`; recordings that are there
    are kept."""
    for number, (name, player) in enumerate(PLAYERS.items()):
        charts = {}
        for part, length, first in (("takes", minutes, 0), ("held_out", held_out, 500)):
            seconds = min(TAKE_SECONDS, length * 60)
            for index in range(max(1, round(length * 60 / TAKE_SECONDS))):
                suffix, rate, channels = FILES[index % len(FILES)]
                path = out / name / part / f"{index:02d}.{suffix}"
                take_seed = seed * 10_000 + number * 1000 + first + index
                if part == "takes":
                    charts[path.name] = compose_take(player, take_seed, seconds)[0].lead_sheet.to_dict()
                if not path.exists():
                    write_take(path, play(player, take_seed, seconds), rate, channels)
                    print(path)
        with whole_or_not_at_all(out / name / CHARTS) as partial:
            partial.write_text(json.dumps(charts, indent=1))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder")
    parser.add_argument("--minutes", type=float, default=10.0, help="to learn from, of each (default: 10)")
    parser.add_argument("--held-out", type=float, default=2.0, help="minutes held out (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    with input_errors():
        make_players(args.out, args.minutes, args.held_out, args.seed)


if __name__ == "__main__":
    main()
