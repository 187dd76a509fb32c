"""Compose and render a corpus of jazz takes with exact labels; on request, fetch recorded music beside it.

    python training/prepare_corpus.py --hours 10 --out corpus/ --workers 8
    python training/prepare_corpus.py --real --out recorded/    # for the codec only

Needs FluidSynth and the sound fonts (Debian, Ubuntu):
    apt-get install fluidsynth musescore-general-soundfont-lossless fluid-soundfont-gm
    pip install 'rtjazz-hf[corpus]'

--real takes music under free licences out of Debian's game packages (about 900 MB to download, nothing is
installed): which packages and which licences, see rtjazz_hf/corpus/real_music.py. It is for training on this
machine, and never to be redistributed.

Stop it when you like; the same command goes on where it stopped. What a take holds depends on --seed and its
number alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from rtjazz_hf.corpus.prepare import CorpusSettings, prepare_corpus
from rtjazz_hf.corpus.renderer import HELD_OUT_FONTS, SOUND_FONTS


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python training/prepare_corpus.py --hours 1 --out corpus/ --workers 4",
    )
    parser.add_argument("--hours", type=float, help="hours of composed music, about")
    parser.add_argument("--out", required=True, help="folder; takes that it already holds are kept")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--stems", action="store_true", help="also write each instrument alone (several times slower)"
    )
    parser.add_argument(
        "--soundfont",
        choices=("both", *SOUND_FONTS, *HELD_OUT_FONTS),
        default="both",
        help=f"{', '.join(HELD_OUT_FONTS)} is for evaluation alone: never part of both, all takes held out",
    )
    parser.add_argument(
        "--test-fraction", type=float, help="share of takes held out (default: 0.05; of a held-out font: 1)"
    )
    parser.add_argument(
        "--minus-one",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of takes in which one or two players of the band are silent (default: 0)",
    )
    parser.add_argument(
        "--real", action="store_true", help="recorded music under free licences too (Debian, network)"
    )
    parser.add_argument(
        "--real-hours", type=float, default=4.0, help="hours of it for training, about (default: 4)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    if args.hours is None and not args.real:
        parser.error("give --hours, --real or both")
    if args.test_fraction is None:
        args.test_fraction = 1.0 if args.soundfont in HELD_OUT_FONTS else 0.05
    return args


def prepare_recorded(args: argparse.Namespace) -> dict:
    # Brings torch: not for the rendering processes.
    from rtjazz_hf.corpus.real_music import prepare_real_music

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    if not args.quiet:
        say("recorded music of Debian's game packages; not to be redistributed")
    return prepare_real_music(args.out, args.real_hours, say=(lambda text: None) if args.quiet else say)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    summary = {}
    try:
        if args.hours is not None:
            settings = CorpusSettings(
                args.seed, args.soundfont, args.stems, args.test_fraction, args.minus_one
            )
            summary = prepare_corpus(args.out, args.hours, settings, args.workers, progress=not args.quiet)
        if args.real:
            summary["real"] = prepare_recorded(args)
    except (RuntimeError, ValueError, OSError) as error:  # RendererUnavailable, RealMusicUnavailable
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
