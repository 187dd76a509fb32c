"""Compose and render a corpus of jazz takes with exact labels; on request, fetch recorded music beside it. Or make
latents of music from elsewhere.

    python training/prepare_corpus.py --hours 10 --out corpus/ --workers 8
    python training/prepare_corpus.py --hours 10 --instruments instruments/ --out corpus/   # recorded instruments too
    python training/prepare_corpus.py --real --out recorded/    # for the codec only
    python training/prepare_corpus.py --dataset fma --source fma/ --jazz --engine ray --workers 16 \\
        --codec runs/codec/final --style-encoder runs/style/final --out fma-latents/

Needs FluidSynth and the sound fonts (Debian, Ubuntu):
    apt-get install fluidsynth musescore-general-soundfont-lossless fluid-soundfont-gm
    pip install 'rtjazz-hf[corpus]'

--instruments takes recorded instruments too, one folder each with an SFZ mapping ("upright_bass", "alto_sax"): which
there are, and where to get them, see training/README.md. pysfizz plays them. Tones then move: --expression, with
sound fonts alone too.

--real takes music under free licences out of Debian's game packages (about 900 MB to download, nothing is
installed): which packages and which licences, see rtjazz_hf/corpus/real_music.py. It is for training on this
machine, and never to be redistributed.

--dataset fma, musiccaps or folder reads what lies in --source (training/README.md says in which layout), leaves out
what is of no use and says why, finds tempo, beats, key and chords, encodes, and writes shards that train_flow.py
--data takes. --engine ray needs pip install 'rtjazz-hf[scale]'.

Stop it when you like; the same command goes on where it stopped. What a take holds depends on --seed and its
number alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from rtjazz_hf.corpus.engines import ENGINES
from rtjazz_hf.corpus.external import (
    FMA_SUBSETS,
    FREE_LICENCES,
    LICENCES,
    SOURCES,
    Selection,
    load_external,
    passed_over,
)
from rtjazz_hf.corpus.prepare import CorpusSettings, prepare_corpus
from rtjazz_hf.corpus.renderer import HELD_OUT_FONTS, SOUND_FONTS
from rtjazz_hf.corpus.screening import FINGERPRINTS
from rtjazz_hf.runtime.files import is_disk_full


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
        "--songs",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of takes whose lead plays a plain song, as a melody that somebody brings (default: 0)",
    )
    parser.add_argument(
        "--grooves",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of takes in shuffle, samba, mambo and the other grooves (default: 0; 0.35 is a good one)",
    )
    parser.add_argument(
        "--metres",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of takes in 5/4, 6/8, 7/4 and other metres (default: 0; 0.1 is a good one)",
    )
    parser.add_argument(
        "--instruments", metavar="DIR", help="folder of recorded instruments, to be played beside the sound fonts"
    )
    parser.add_argument(
        "--recorded-share",
        type=float,
        default=0.6,
        metavar="SHARE",
        help="chance that a player who has a recorded instrument plays it (default: 0.6)",
    )
    parser.add_argument(
        "--expression",
        action=argparse.BooleanOptionalAction,
        help="scoops, falls, bends, slides, late vibrato, ghost notes (default: with --instruments)",
    )
    parser.add_argument(
        "--real", action="store_true", help="recorded music under free licences too (Debian, network)"
    )
    parser.add_argument(
        "--real-hours", type=float, default=4.0, help="hours of it for training, about (default: 4)"
    )
    add_external(parser.add_argument_group("music from elsewhere"))
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    args = parser.parse_args(arguments)
    if args.dataset is not None:
        if args.hours is not None or args.real:
            parser.error("--dataset makes latents, --hours and --real a corpus: give one or the other")
        for name in ("source", "codec", "style_encoder"):
            if getattr(args, name) is None:
                parser.error(f"--dataset needs --{name.replace('_', '-')}")
        if args.licences is None and args.dataset == "fma":
            args.licences = list(FREE_LICENCES)
    elif args.hours is None and not args.real:
        parser.error("give --hours, --real or both, or --dataset")
    if args.instruments is not None and args.hours is None:
        parser.error("--instruments are for composed music: give --hours too")
    if args.expression is None:
        args.expression = args.instruments is not None
    if args.test_fraction is None:
        args.test_fraction = 1.0 if args.soundfont in HELD_OUT_FONTS else 0.05
    return args


def add_external(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--dataset", choices=SOURCES, help="what lies in --source")
    group.add_argument("--source", help="folder, table, or Hub id of a copy")
    group.add_argument("--audio", help="where the sound is, if not below --source")
    group.add_argument("--codec", help="folder of a codec or pipeline, bundled name or Hub id")
    group.add_argument("--style-encoder", help="folder of train_style.py, or a pipeline")
    group.add_argument("--codes", action="store_true", help="store codes too, for prediction_type codebook")
    group.add_argument("--engine", choices=ENGINES, default="local", help="who does the work (local)")
    group.add_argument(
        "--licences",
        nargs="+",
        choices=LICENCES,
        metavar="LICENCE",
        help=f"those allowed, of {', '.join(LICENCES)} (fma: {' '.join(FREE_LICENCES)}; else all)",
    )
    group.add_argument("--jazz", action="store_true", help="only what genre or words call jazz")
    group.add_argument("--words", nargs="+", default=[], help="only what has one of these words")
    group.add_argument("--subset", choices=FMA_SUBSETS, help="of FMA (by the name of its folder)")
    group.add_argument("--streaming", action="store_true", help="rows of a Hub copy as they are needed")
    group.add_argument("--band", nargs="+", help="who plays, where words do not say (piano bass drums)")
    group.add_argument("--shard-size", type=int, default=64, help="recordings in a shard (64)")
    group.add_argument("--fingerprint", choices=FINGERPRINTS, help="how copies are told (the best installed)")
    group.add_argument(
        "--core-hour-price", type=float, default=0.04, help="for the estimate of 10 TB (0.04, an assumption)"
    )


def prepare_elsewhere(args: argparse.Namespace) -> dict:
    # Brings torch: not for the rendering processes.
    from rtjazz_hf.corpus.prepare_external import BAND, AudioSettings, prepare_external

    rows = load_external(args.dataset, args.source, args.audio, args.streaming, args.subset)
    for path in passed_over(args.dataset, args.source, args.audio):
        print(f"passed over: '{path}' is no recording of this data set, by its name", file=sys.stderr)
    settings = AudioSettings(
        args.codec,
        args.style_encoder,
        args.codes,
        tuple(args.band or BAND),
        args.shard_size,
        args.fingerprint,
    )
    selection = Selection(args.licences and tuple(args.licences), args.jazz, tuple(args.words))
    report, speed = prepare_external(
        rows, args.out, settings, selection, args.engine, args.workers, progress=not args.quiet
    )
    if not args.quiet:
        print(speed.to_text(args.core_hour_price), file=sys.stderr)
    return report


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
        if args.dataset is not None:
            summary = prepare_elsewhere(args)
        if args.hours is not None:
            settings = CorpusSettings(
                args.seed, args.soundfont, args.stems, args.test_fraction, args.minus_one, args.songs, args.grooves,
                args.metres, args.expression, recorded_share=args.recorded_share,
            )  # fmt: skip
            summary = prepare_corpus(
                args.out, args.hours, settings, args.workers, not args.quiet, args.instruments
            )
        if args.real:
            summary["real"] = prepare_recorded(args)
    except (
        ImportError,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:  # RendererUnavailable, InstrumentsError, RealMusicUnavailable
        print(f"error: {error}", file=sys.stderr)
        if is_disk_full(error):
            print("the disk is full: make room, and the same command goes on from here", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from here", file=sys.stderr)
        return 130
    print(json.dumps(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
