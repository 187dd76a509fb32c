"""An SFZ mapping of single notes whose files' names say which they are, tuned to A = 440 Hz, for prepare_corpus.py
--instruments.

    python training/map_samples.py spectmorph-instruments/trumpet --out instruments/trumpet
    python training/map_samples.py node_modules/@audio-samples --only velocity --keep-tuning --out instruments/piano

Read from a name: its key as a number ("note-55.flac", "055_f_rr1.wav") or a note ("A#3v8.ogg", "bb2_p.wav"; C4 is
middle C), its layer ("v8", or "pp" to "ff") and its round robin ("rr2"). Each sample sounds up to the middle between
it and its neighbours; layers share out the velocities evenly. Samples that have no name of this kind, or are further
from the key that they name than --widest cents, are named and left out. A piano is tuned by octaves that are a little
wide, and its partials lie wider still: --keep-tuning leaves every note as it is.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile

from rtjazz_hf.corpus.instruments import cents_of
from rtjazz_hf.music.vocabulary import note_to_pitch_class
from rtjazz_hf.runtime.files import whole_or_not_at_all

SUFFIXES = (".wav", ".flac", ".ogg", ".aif", ".aiff")
DYNAMICS = ("ppp", "pp", "p", "mp", "mf", "f", "ff", "fff")
_NOTE = re.compile(r"(?<![A-Za-z0-9])([A-Ga-g][#b]?)(-?\d)(?!\d)")
_NUMBER = re.compile(r"(?<![\dA-Za-z#])(\d{2,3})(?![\dA-Za-z])")
_LAYER = re.compile(r"(?:^|[-_ \d])v(?:l|el)?(\d{1,3})(?!\d)")
_ROBIN = re.compile(r"(?:^|[-_ ])rr(\d+)", re.IGNORECASE)
_BEYOND = 2  # keys beyond the lowest and the highest sample


@dataclass(frozen=True)
class Sample:
    path: Path
    key: int
    layer: int
    robin: int
    cents: float = 0.0


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python training/map_samples.py samples/trumpet --out instruments/trumpet",
    )
    parser.add_argument("samples", nargs="+", type=Path, help="files, or folders that are searched")
    parser.add_argument("--out", required=True, type=Path, help="folder of the instrument, named after who plays it")
    parser.add_argument("--only", default="", metavar="TEXT", help="of folders only files whose path has this in it")
    parser.add_argument("--transpose", type=int, default=0, help="semitones from names to sounding keys (default: 0)")
    parser.add_argument("--release", type=float, default=0.12, help="seconds that a note dies away in (0.12)")
    parser.add_argument("--veltrack", type=float, default=70, help="how far loudness follows velocity, in %% (70)")
    parser.add_argument("--widest", type=float, default=50, help="cents beside its key that are tuned away (50)")
    parser.add_argument("--keep-tuning", action="store_true", help="map all notes as they are tuned")
    return parser.parse_args(arguments)


def named(path: Path) -> tuple[int, int, int] | None:
    """Key, layer and round robin that a file's name tells; None where it tells no key."""
    name = path.stem
    if note := _NOTE.search(name.replace("v", " v")):
        key = 12 * (int(note[2]) + 1) + note_to_pitch_class(note[1][0].upper() + note[1][1:])
    elif number := _NUMBER.search(name):
        key = int(number[1])
    else:
        return None
    layer = int(found[1]) if (found := _LAYER.search(name)) else 0
    if not layer:
        words = [word for word in re.split(r"[-_ .]", name) if word in DYNAMICS]
        layer = DYNAMICS.index(words[0]) if words else 0
    return key, layer, int(found[1]) if (found := _ROBIN.search(name)) else 1


def find(places: list[Path], only: str) -> tuple[list[Path], list[str]]:
    """The samples, and what else lies there."""
    files, others = [], []
    for place in places:
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.suffix.lower() in SUFFIXES and only in str(path):
                files.append(path)
            elif not path.is_dir() and only in str(path):
                others.append(f"{path}: no sample, by its name")
    return files, others


def measured(path: Path, key: int) -> float:
    """Cents of a sample beside a key, between 0.1 and 1 s after its beginning."""
    with soundfile.SoundFile(path) as file:
        rate = file.samplerate
        sound = file.read(frames=rate, dtype="float32", always_2d=True).mean(axis=1)
    return cents_of(sound[round(0.1 * rate) :], key, rate, within=1.2)


def read(files: list[Path], transpose: int, widest: float | None) -> tuple[list[Sample], list[str]]:
    """The samples, and what was left out and why; `widest` None: tuned as they are."""
    samples, left_out = [], []
    for path in files:
        if (told := named(path)) is None:
            left_out.append(f"{path}: its name tells no key")
            continue
        key = told[0] + transpose
        try:
            cents = measured(path, key)
        except (RuntimeError, OSError) as error:  # soundfile's errors are RuntimeErrors
            left_out.append(f"{path}: {error}")
            continue
        if widest is None:
            cents = 0.0
        elif not np.isfinite(cents) or abs(cents) > widest:
            left_out.append(f"{path}: {cents:+.0f} cents beside key {key}")
            continue
        samples.append(Sample(path, key, told[1], told[2], cents))
    return samples, left_out


def mapping(samples: list[Sample], out: Path, release: float, veltrack: float) -> str:
    """The text of an SFZ in `out`."""
    keys = sorted({sample.key for sample in samples})
    borders = [keys[0] - _BEYOND, *((low + high) // 2 + 1 for low, high in pairwise(keys)), keys[-1] + _BEYOND + 1]
    lines = ["<control> hint_ram_based=1", f"<global> ampeg_release={release:g} amp_veltrack={veltrack:g}"]
    for index, key in enumerate(keys):
        here = [sample for sample in samples if sample.key == key]
        layers = sorted({sample.layer for sample in here})
        edges = [round(127 * place / len(layers)) for place in range(len(layers) + 1)]
        for sample in sorted(here, key=lambda each: (each.layer, each.robin)):
            layer = layers.index(sample.layer)
            robins = sorted(each.robin for each in here if each.layer == sample.layer)
            low, high = max(0, borders[index]), min(127, borders[index + 1] - 1)
            path = os.path.relpath(sample.path.resolve(), out.resolve())
            lines.append(
                f"<region> lokey={low} hikey={high} pitch_keycenter={key} lovel={edges[layer] + (layer > 0)} "
                f"hivel={edges[layer + 1]} seq_length={len(robins)} seq_position={robins.index(sample.robin) + 1} "
                f"tune={-round(sample.cents)} sample={Path(path).as_posix()}"
            )
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    files, others = find(args.samples, args.only)
    samples, left_out = read(files, args.transpose, None if args.keep_tuning else args.widest)
    for text in (*others, *left_out):
        print(f"left out: {text}", file=sys.stderr)
    places = [(sample.key, sample.layer, sample.robin) for sample in samples]
    twice = {place for place in places if places.count(place) > 1}
    if not samples or twice:
        key, layer, robin = min(twice, default=(0, 0, 0))
        why = f"{len(twice)} notes are there twice (key {key}, layer {layer}, round robin {robin}); choose by --only"
        print(f"error: {why if twice else 'no sample can be used'}", file=sys.stderr)
        return 1
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / f"{args.out.resolve().name}.sfz"
    with whole_or_not_at_all(file) as partial:
        partial.write_text(mapping(samples, args.out, args.release, args.veltrack), encoding="utf-8")
    off = float(np.mean([abs(sample.cents) for sample in samples]))
    keys = len({sample.key for sample in samples})
    print(f"{file}: {len(samples)} samples of {keys} keys; {off:.0f} cents were tuned away on average")
    return 0


if __name__ == "__main__":
    sys.exit(main())
