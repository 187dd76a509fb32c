"""Measure a codec on held-out music, beside Opus and the reverse water-filling bound.

    python training/evaluate_codec.py --codec runs/codec/final --takes data/corpus --real data/real --out report/

Needs opus-tools or ffmpeg (Debian, Ubuntu: apt-get install opus-tools), and pip install 'rtjazz-hf[eval]'. Opus
files and their scores stay in --cache, so that the next codec on the same clips is measured in a fraction of the
time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

from rtjazz_hf.cli.common import choose_device, quiet_libraries
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.evaluation.clips import Clip, clips_of_recordings, clips_of_takes
from rtjazz_hf.evaluation.codec_report import LEVELS, NOTE_SECONDS, OPUS_RATES, evaluate_codec
from rtjazz_hf.evaluation.measures.opus import OpusUnavailable
from rtjazz_hf.evaluation.takes import HeldOutTake, choose_takes, from_record, records_of_test
from rtjazz_hf.hub import load_codec

MAX_SECONDS = 600.0  # a clip and its spectra are in memory


def parse_args(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="example: python training/evaluate_codec.py --takes data/corpus --out report/ --speed",
    )
    parser.add_argument(
        "--codec",
        default="rtjazz-mini",
        help="a pipeline or a codec: bundled name, folder or Hub id (default: %(default)s)",
    )
    parser.add_argument("--takes", type=Path, help="corpus of prepare_corpus.py; its test split is used")
    parser.add_argument(
        "--font-takes", type=Path, help="corpus rendered with a sound font held out; all its takes are used"
    )
    parser.add_argument(
        "--real", type=Path, help="folder of recorded music (prepare_corpus.py --real, or any)"
    )
    parser.add_argument("--levels", type=int, nargs="+", default=list(LEVELS), help="(default: %(default)s)")
    parser.add_argument(
        "--opus-rates", type=float, nargs="*", default=list(OPUS_RATES), metavar="KBIT",
        help="kbit/s; none leaves Opus out (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--num-takes", type=int, default=20, help="clips of each set (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each clip (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for codec.json, codec.md and pictures"
    )
    parser.add_argument("--cache", type=Path, help="folder of Opus files and scores (default: OUT/opus)")
    parser.add_argument("--no-tones", action="store_true", help="leave out vibrato, glides and partials in cents")
    parser.add_argument(
        "--note-takes", type=int, default=40, metavar="N",
        help="held-out takes of --takes in which a transcriber listens for notes, 0 for none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--speed", action="store_true", help="time it too, beside transformers' EnCodec")
    parser.add_argument("--threads", type=int, default=2, help="of the timing (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="auto, cpu, cuda, ... (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="the report on stdout")
    parser.add_argument("--quiet", action="store_true", help="nothing on stderr but errors")
    args = parser.parse_args(arguments)
    if args.num_takes < 1 or not 1 <= args.seconds <= MAX_SECONDS:
        parser.error(f"--num-takes wants at least 1, --seconds 1 to {MAX_SECONDS:g}")
    for name, folder in (("--out", args.out), ("--cache", args.cache)):
        if folder is not None and folder.exists() and not folder.is_dir():
            parser.error(f"{name} {folder} is a file; give a folder")
    if args.note_takes < 0:
        parser.error("--note-takes wants 0 or more")
    if args.threads < 1:
        parser.error("--threads wants at least 1")
    if args.takes is args.font_takes is args.real is None and not args.speed:
        parser.error("give at least one of --takes, --font-takes, --real and --speed")
    return args


def load_sets(args: argparse.Namespace) -> tuple[dict[str, list[Clip]], list[str]]:
    """Clips by set, in the order of the report, and the files that were passed over, with the reason."""
    found = {}
    if args.takes is not None:
        found["composed"] = clips_of_takes(records_of_test(args.takes), args.num_takes, args.seconds)
    if args.font_takes is not None:
        found["font"] = clips_of_takes(load_takes(args.font_takes), args.num_takes, args.seconds)
    if args.real is not None:
        found["real"] = clips_of_recordings(args.real, args.num_takes, args.seconds)
    passed_over = [reason for _, skipped in found.values() for reason in skipped]
    for reason in passed_over:
        print(f"passed over: {reason}", file=sys.stderr)
    return {name: clips for name, (clips, _) in found.items()}, passed_over


def takes_with_notes(corpus: Path, number: int) -> list[HeldOutTake]:
    """Up to `number` held-out takes whose notes are known; what cannot be read was named with the clips."""
    takes = []
    for record in records_of_test(corpus):
        with contextlib.suppress(OSError, ValueError):
            takes.append(from_record(record))
    return choose_takes([take for take in takes if take.score is not None], number, NOTE_SECONDS)


def main(arguments: list[str] | None = None) -> int:
    args = parse_args(arguments)
    try:
        quiet_libraries()
        device = choose_device(args.device)
        sets, passed_over = load_sets(args)
        codec = load_codec(args.codec).to(device)
        speed = None
        if args.speed:
            from rtjazz_hf.benchmark import benchmark_codec

            speed = benchmark_codec(codec, threads=args.threads)
        if not sets:  # --speed alone
            from rtjazz_hf.evaluation.codec_verdicts import speed_verdicts
            from rtjazz_hf.evaluation.writing import to_plain, to_table, write_text

            report = to_plain({"speed": speed, "table": speed_verdicts(speed)})
            args.out.mkdir(parents=True, exist_ok=True)
            write_text(args.out / "speed.json", json.dumps(report, indent=2) + "\n")
            if not args.quiet:
                print(to_table(report["table"]), file=sys.stderr)
        else:
            takes = takes_with_notes(args.takes, args.note_takes) if args.takes is not None else []
            report = evaluate_codec(
                codec, sets, args.out, levels=args.levels, seconds=args.seconds, opus_rates=args.opus_rates,
                cache=args.cache, speed=speed, passed_over=passed_over, tones=not args.no_tones,
                note_takes=takes, progress=not args.quiet,
            )  # fmt: skip
    except (OpusUnavailable, ImportError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the same command uses what is in its cache", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
