"""How recorded instruments stand beside the sound fonts' players: loudness, tuning, onsets.

    python training/measure_instruments.py --instruments instruments/

Every player plays the same single notes, all over what the band asks of it, softly and loudly, without a room; those of
each font and of each recorded instrument. Told are: integrated loudness of all of them (LUFS), cents beside A = 440 Hz
(median, and how far 95% of the notes stand off at the most), and how long after the beat notes are heard (ms: median,
and the 95th part of a hundred), that is, come within 12 dB of the loudest of their first 150 ms.
Needs what prepare_corpus.py --instruments needs.
"""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from rtjazz_hf.audio import SAMPLE_RATE
from rtjazz_hf.band.performance import Note, Take
from rtjazz_hf.corpus.instruments import cents_of, load_instruments, loudness_of, onset_of, reach_of
from rtjazz_hf.corpus.lanes import Lane
from rtjazz_hf.corpus.renderer import (
    SOUND_FONTS,
    VOICES,
    MixPlan,
    Place,
    RendererUnavailable,
    shared_renderer,
)
from rtjazz_hf.corpus.sampler import Sampler
from rtjazz_hf.corpus.sources import RECORDED, match_levels
from rtjazz_hf.music.lead_sheet import LeadSheet

NOTE_S, EVERY_S, FIRST_S = 0.55, 1.0, 0.2
VELOCITIES = (50, 80, 110)


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python training/measure_instruments.py --instruments instruments/",
    )
    parser.add_argument("--instruments", required=True, help="folder as prepare_corpus.py --instruments takes it")
    parser.add_argument("--every", type=int, default=3, help="semitones between the notes (default: 3)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of a table")
    return parser.parse_args(arguments)


def notes_of(player: str, keys: list[int]) -> list[Note]:
    pairs = [(key, velocity) for key in keys for velocity in VELOCITIES]
    return [
        Note(FIRST_S + EVERY_S * index, NOTE_S, key, velocity, "lead") for index, (key, velocity) in enumerate(pairs)
    ]


def measure(sound: np.ndarray, notes: list[Note]) -> dict[str, float]:
    """What `(2, samples)` that hold these notes measure."""
    mono = sound.mean(axis=0)
    cents, late = [], []
    for note in notes:
        start = round(note.start_s * SAMPLE_RATE)
        before = round(0.05 * SAMPLE_RATE)
        piece = mono[start - before : start + round(0.9 * SAMPLE_RATE)]
        late.append(1000 * (onset_of(piece) - 0.05))
        cents.append(cents_of(mono[start + round(0.12 * SAMPLE_RATE) : start + round(0.5 * SAMPLE_RATE)], note.midi))
    return {
        "lufs": loudness_of(sound),
        "cents": float(np.median(cents)),
        "cents_95": float(np.percentile(np.abs(cents), 95)),
        "onset_ms": float(np.median(late)),
        "onset_ms_95": float(np.percentile(late, 95)),
    }


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        fonts = {name: shared_renderer(name) for name in SOUND_FONTS}
        instruments = match_levels(
            load_instruments(args.instruments, lambda text: print(text, file=sys.stderr)), fonts[SOUND_FONTS[0]]
        )
    except (RendererUnavailable, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = {}
    for instrument in instruments:
        player, reach = instrument.player, reach_of(instrument.player)
        notes = notes_of(player, [key for key in reach[:: args.every] if key in instrument.keys])
        seconds = FIRST_S + EVERY_S * len(notes)
        take = Take(LeadSheet.from_chart("C", instruments=(player,)), {player: tuple(notes)}, {}, seconds)
        place = Place(VOICES[player].presets[0], VOICES[player].level_db, 0.0, 0.0, 0.0)
        plan = MixPlan({player: place}, (0.2, 0.4, 0.5, 0.0), 0.0, 1.0)
        sounds = {name: font.tracks(take, [[player]], plan)[0] for name, font in fonts.items()}
        sampler = Sampler(instrument.mapped)
        sounds[RECORDED + instrument.name] = sampler.play([Lane(tuple(notes))], seconds, np.random.default_rng(0))
        for source, sound in sounds.items():
            rows[f"{player} {source}"] = measure(sound, notes)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print("| player | source | LUFS | cents, median | cents, 95% within | onset ms, median | onset ms, 95% |")
        print("|---|---|---|---|---|---|---|")
        for name, row in rows.items():
            print(f"| {name.replace(' ', ' | ')} | " + " | ".join(f"{value:.1f}" for value in row.values()) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
