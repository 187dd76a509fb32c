"""Compose and render a corpus of jazz takes with exact labels.

    python training/prepare_corpus.py --hours 10 --out corpus/ --workers 8

Needs FluidSynth and the sound fonts (Debian, Ubuntu):
    apt-get install fluidsynth musescore-general-soundfont-lossless fluid-soundfont-gm
    pip install 'rtjazz-hf[corpus]'

Stop it when you like; the same command goes on where it stopped. What a take holds depends on --seed and its
number alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from rtjazz_hf.corpus.prepare import CorpusSettings, RendererUnavailable, prepare_corpus


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python training/prepare_corpus.py --hours 1 --out corpus/ --workers 4",
    )
    parser.add_argument("--hours", type=float, required=True, help="hours of music, about")
    parser.add_argument("--out", required=True, help="folder; takes that it already holds are kept")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--stems", action="store_true", help="also write each instrument alone (several times slower)"
    )
    parser.add_argument("--soundfont", choices=("both", "musescore", "fluid"), default="both")
    parser.add_argument(
        "--test-fraction", type=float, default=0.05, help="share of takes held out (default: 0.05)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        settings = CorpusSettings(args.seed, args.soundfont, args.stems, args.test_fraction)
        summary = prepare_corpus(args.out, args.hours, settings, args.workers, progress=not args.quiet)
    except (RendererUnavailable, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
