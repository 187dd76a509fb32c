"""Small copies of FMA and MusicCaps in their published columns, with sound of plain tones; and files that are bad."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile
from synthetic_takes import SAMPLE_RATE, played

SECONDS = 10  # at these tempi always some whole bars of 6 s together
ROOTS, QUALITIES = (
    ("C", "Db", "D", "Eb", "E", "F", "F#", "G", "Ab", "A", "Bb", "B"),
    ("maj7", "m7", "7", "m7b5"),
)
FMA_TOP = ["album"] * 2 + ["artist"] * 2 + ["set"] * 2 + ["track"] * 7
FMA_NAMES = ["id", "title", "id", "name", "split", "subset", "bit_rate", "duration", "genre_top", "genres",
             "genres_all", "license", "tags"]  # fmt: skip
GENRES = [(2, 0, "International", 2), (4, 0, "Jazz", 4), (12, 0, "Rock", 12), (181, 4, "Be-Bop", 4)]
BY, BY_SA = "Attribution", "Attribution-ShareAlike 3.0 International"
BY_NC = "Attribution-NonCommercial-ShareAlike 3.0 United States"


def sound(number: int, seconds: float = SECONDS) -> np.ndarray:
    """A take of its own for each number, in tempo, chords and noise: `(2, samples)`."""
    rng = np.random.default_rng([number, 0])
    chart = " | ".join(f"{rng.choice(ROOTS)}{rng.choice(QUALITIES)}" for _ in range(8))
    return played(float(rng.uniform(120, 160)), seconds, chart, seed=number)


def write(path: Path, audio: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, audio.T, SAMPLE_RATE, **options)
    return path


def write_fma(root: Path, tracks: list[tuple[int, str, str, list[int], str]], subset: str = "small") -> Path:
    """tracks: (number, artist, top genre, genres, licence); sound for the even numbers only is left to the caller."""
    tables = root / "fma_metadata"
    tables.mkdir(parents=True)
    with (tables / "tracks.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["", *FMA_TOP, "track"])
        rows.writerow(["", *FMA_NAMES, "title"])
        rows.writerow(["track_id", *[""] * (len(FMA_NAMES) + 1)])
        for number, artist, top, genres, licence in tracks:
            rows.writerow([number, 1, "An album", 1, artist, "training", subset, 256_000, 30, top, genres[:1], genres,
                           licence, "['late night']", f"Song {number}"])  # fmt: skip
    with (tables / "genres.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["genre_id", "#tracks", "parent", "title", "top_level"])
        rows.writerows([number, 10, parent, title, top] for number, parent, title, top in GENRES)
    (root / f"fma_{subset}" / "000").mkdir(parents=True)
    return root


def fma_path(root: Path, number: int, subset: str = "small") -> Path:
    return root / f"fma_{subset}" / f"{number:06d}"[:3] / f"{number:06d}.mp3"


def write_musiccaps(root: Path, rows: list[tuple[str, float, str, str, bool]]) -> Path:
    """rows: (ytid, start, aspects as Python writes a list, caption, is_audioset_eval)."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / "musiccaps-public.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["ytid", "start_s", "end_s", "audioset_positive_labels", "aspect_list", "caption", "author_id",
                        "is_balanced_subset", "is_audioset_eval"])  # fmt: skip
        for ytid, start, aspects, caption, held_out in rows:
            table.writerow(
                [ytid, int(start), int(start) + 10, "/m/04rlf,/m/03_d0", aspects, caption, 4, False, held_out]
            )
    return root


BAD = {
    "missing": lambda path, number: None,
    "empty": lambda path, number: path.write_bytes(b""),
    "unreadable": lambda path, number: path.write_bytes(b"<html>404, not found</html>" * 100),
    "cut short": lambda path, number: _cut(path, sound(number)),
    "too short": lambda path, number: write(path, sound(number, 2.0), format="WAV"),
    "silent": lambda path, number: write(path, np.zeros((2, SECONDS * SAMPLE_RATE)), format="WAV"),
    "clipped": lambda path, number: write(path, np.clip(30 * sound(number), -1, 1), format="WAV"),
    "not finite": lambda path, number: write(
        path,
        np.where(np.arange(SECONDS * SAMPLE_RATE) == 9999, np.nan, sound(number)),
        format="WAV",
        subtype="FLOAT",
    ),
    "too many channels": lambda path, number: write(path, np.tile(sound(number), (3, 1)), format="WAV"),
    "no beat or pitch": lambda path, number: write(
        path, 0.1 * np.random.default_rng(number).standard_normal((2, SECONDS * SAMPLE_RATE)), format="WAV"
    ),
}  # by what they are counted as; copies are made of others


COPIES = ("duplicate", "same recording")
KINDS = tuple(kind for kind in BAD if kind != "missing") + COPIES  # a folder lacks nothing


def write_many(root: Path, good: int, bad: int, kinds: tuple[str, ...] = KINDS) -> Path:
    """A folder of `good` recordings of three artists, the last one mono, and `bad` files, each of the next kind."""
    for number in range(good):
        audio = sound(number)
        write(
            root / f"artist {number % 3}" / f"{number:04d}.wav",
            audio.mean(0, keepdims=True) if number == good - 1 else audio,
        )
    (root / "bad").mkdir()
    for number in range(bad):
        kind = kinds[number % len(kinds)]
        path = root / "bad" / f"{kind} {number}.wav"
        if kind == "same recording":
            write(path.with_suffix(".mp3"), 0.5 * sound(number % (good - 1)), format="MP3")
        elif kind == "duplicate":
            write(path, sound(number % (good - 1)))
        else:
            BAD[kind](path, 100_000 + number)
    return root


def _cut(path: Path, audio: np.ndarray) -> None:
    write(path, audio, format="WAV")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
