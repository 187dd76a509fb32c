"""`rtjazz benchmark`: how fast this machine plays, beside the peers, and where the time goes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..benchmark.recipes import PARTS, SIZES, TrainingSettings
from ..benchmark.settings import (
    ATTENTION,
    BLOCK_FRAMES,
    DTYPES,
    OWN_MODELS,
    PEERS,
    QUICK,
    SWAP_SECONDS,
    BenchmarkSettings,
)
from ..runtime.engines import ENGINES, check_engine
from .common import DEFAULT_MODEL, Refused, add_command, choose_device, quiet_libraries

NO_PEERS = "none"
RESULT_FILES = ("benchmark.json", "benchmark.md")
TRAIN_FILES = ("training.json", "training.md")
PROFILE_FILES = ("profile.json", "profile.md", "profile.png")

_HELP = f"""\
Measure how fast pipelines play on this machine, beside MusicGen-small, Stable Audio Open's transformer and EnCodec in
their published sizes (random weights: nothing is downloaded): real-time factor, time to first audio, percentiles of
block times, under-runs, peak memory, what the cache gains. Every case has a process of its own; those that are compared
take turns. A few minutes on two cores; --quick takes about one.

example:
  rtjazz benchmark --out bench/
  rtjazz benchmark --quick --models mini --peers {NO_PEERS} --json
  rtjazz benchmark --models mini --block-frames 12 --minutes 10 --peers {NO_PEERS} --out live/
  rtjazz benchmark --models mini --block-frames 36 --minutes 2 --swap ana/adapter ben/adapter --peers {NO_PEERS}
  rtjazz benchmark --models mini --beside 0 1 2 4
  rtjazz benchmark --profile --out profile/
  rtjazz benchmark --train --models mini --out training/
"""


def add_benchmark(commands: Any) -> None:
    parser = add_command(
        commands,
        "benchmark",
        _HELP,
        run_benchmark_command,
        "of the music and of random weights (default: 0)",
        dtype=False,
    )
    defaults = BenchmarkSettings()
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="MODEL",
        help="mini (the pipeline of --model), base (random weights in the published size), bundled names, folders or "
        "Hub ids (default: mini base; with --model, mini alone)",
    )
    parser.add_argument(
        "--peers", nargs="+", metavar="PEER", help=f"some of {', '.join(PEERS)}, or {NO_PEERS} (default: all)"
    )
    parser.add_argument(
        "--block-frames",
        nargs="+",
        type=int,
        metavar="N",
        help=f"of {', '.join(map(str, BLOCK_FRAMES))} (default: all)",
    )
    parser.add_argument("--steps", nargs="+", type=int, metavar="N", help="a block (default: the model's, and"
                        " 2, 4 and 8 with the main block)")  # fmt: skip
    parser.add_argument("--guidance", type=float, help="guidance scale, 1 for none (default: the model's)")
    parser.add_argument(
        "--window", type=int, metavar="FRAMES", help="context, 1 to 750 (default: the model's; 300 are 4 s)"
    )
    parser.add_argument(
        "--dtype",
        nargs="+",
        metavar="DTYPE",
        help=f"of {', '.join(DTYPES)}: all blocks in the first, the main block in all "
        "(default: float32 bfloat16, or float32 alone where bfloat16 is slow)",
    )
    parser.add_argument(
        "--threads",
        nargs="+",
        type=int,
        metavar="N",
        help="of torch: all blocks with the first, the main block with all (default: 0, as many as a session chooses)",
    )
    parser.add_argument(
        "--attn",
        nargs="+",
        metavar="NAME",
        help=f"of {', '.join(ATTENTION)}: all blocks with the first, the main block with all "
        "(default: sdpa eager, and flash where it is installed)",
    )
    parser.add_argument(
        "--engine",
        nargs="+",
        metavar="ENGINE",
        help=f"of {', '.join(ENGINES)}: what computes the flow; all blocks with the first, the main block with all "
        "(default: auto)",
    )
    parser.add_argument("--compile", action="store_true", help="measure torch.compile too")
    parser.add_argument(
        "--seconds", type=float, help=f"of audio for each figure (default: {defaults.seconds:g})"
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="play so long in real time too, and count under-runs"
    )
    parser.add_argument(
        "--swap",
        nargs="+",
        metavar="ADAPTER",
        help="with --minutes: play once more, and change from one of these adapters to the next every "
        f"{SWAP_SECONDS:g} s",
    )
    parser.add_argument(
        "--beside",
        nargs="+",
        type=int,
        metavar="N",
        help="instead of all that, play in real time beside N busy processes, with one thread, two and as many as a "
        "session chooses, in turns; --threads 0: only as it chooses (--minutes of each; default: half a minute)",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: does it run at all?")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="instead of all that, find where the time of a block goes; in --out, a picture and traces too",
    )
    parser.add_argument(
        "--train",
        action="store_true",
        help="instead of all that, measure training: a few steps of codec, flow and adapter, mini and base, "
        "and from them memory and hours of the recipes for GPUs, computed",
    )
    training = parser.add_argument_group("with --train")
    training.add_argument("--parts", nargs="+", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    training.add_argument("--batch-size", type=int, metavar="N", help="crops a step (default: the config's; on a CPU"
                          " 1 for base)")  # fmt: skip
    training.add_argument("--checkpointing", action="store_true", help="compute the flow's activations twice")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="write the report as JSON and Markdown there (and the profile's)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is in the folder")


def run_benchmark_command(args: argparse.Namespace) -> int:
    try:
        settings = training_settings(args) if args.train else benchmark_settings(args)
        _check_out(args)
        if not args.train:
            settings.check_generation()
            for engine in settings.engines:
                check_engine(engine)
        from ..benchmark.run import (
            check_models,
            run_benchmark,
            run_beside,
            run_profile,
            run_training_benchmark,
        )

        if not args.train:
            check_models(settings)
    except (ValueError, OSError, ImportError) as error:
        raise Refused(str(error)) from error
    quiet_libraries()
    if args.out is not None:
        args.out.mkdir(exist_ok=True)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if args.train:
        report = run_training_benchmark(settings, say=say)
    elif args.beside:
        report = run_beside(settings, say=say)
    elif args.profile:
        report = run_profile(settings, args.out, say=say)
    else:
        report = run_benchmark(settings, say=say)

    from ..benchmark.report import to_markdown, to_text
    from ..evaluation.writing import write_text

    if args.out is not None:
        data, page = _files(args)[:2]
        write_text(args.out / data, json.dumps(report, indent=1) + "\n")
        write_text(args.out / page, to_markdown(report))
    print(f"\n{to_text(report)}", file=sys.stderr)
    if args.json:
        print(json.dumps(report))
    failed = [each["label"] for each in report["cases"] if "failed" in each]
    if failed:
        print(f"rtjazz: error: not measured: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def benchmark_settings(args: argparse.Namespace) -> BenchmarkSettings:
    """The settings that a command line asks for.

    Raises:
        ValueError: naming the option's setting, its value and what is allowed.
    """
    if alien := [name for name in ("parts", "batch_size", "checkpointing") if getattr(args, name)]:
        raise ValueError(f"--{alien[0].replace('_', '-')} is of training: give --train too")
    if args.beside and (other := [name for name in ("profile", "swap", "compile") if getattr(args, name)]):
        raise ValueError(f"--beside and --{other[0]}: give one of them")
    peers = None if args.peers is None else tuple(name for name in args.peers if name != NO_PEERS)
    if args.peers is not None and NO_PEERS in args.peers and peers:
        raise ValueError(f"--peers {' '.join(args.peers)}: give {NO_PEERS} alone, or names without it")
    given = {
        "models": args.models or (OWN_MODELS if args.model == DEFAULT_MODEL else ("mini",)),
        "peers": peers,
        "block_frames": args.block_frames,
        "steps": args.steps,
        "guidance_scale": args.guidance,
        "window_frames": args.window,
        "dtypes": args.dtype,
        "threads": args.threads,
        "attention": args.attn,
        "engines": args.engine,
        "seconds": args.seconds,
        "swap": args.swap,
        "beside": args.beside,
        "seed": args.seed,
    }
    values = dict(QUICK) if args.quick else {}
    values |= {name: tuple(value) if isinstance(value, list) else value
               for name, value in given.items() if value is not None}  # fmt: skip
    return BenchmarkSettings(
        mini=str(args.model),
        compile=args.compile,
        minutes=args.minutes,
        device=choose_device(args.device),
        **values,
    )


def training_settings(args: argparse.Namespace) -> TrainingSettings:
    """The settings that a command line with --train asks for.

    Raises:
        ValueError: as `benchmark_settings`, and for options that belong to playing.
    """
    playing = (
        "peers",
        "block_frames",
        "steps",
        "guidance",
        "window",
        "attn",
        "engine",
        "compile",
        "seconds",
        "minutes",
        "swap",
        "beside",
        "profile",
    )
    if alien := [name for name in playing if getattr(args, name)]:
        raise ValueError(
            f"--train and --{alien[0].replace('_', '-')}: one measures training, the other playing"
        )
    if args.model != DEFAULT_MODEL:
        raise ValueError(
            f"--train and --model {args.model}: training is measured with random weights; give --models"
        )
    for name in ("dtype", "threads"):
        if len(getattr(args, name) or ()) > 1:
            raise ValueError(f"--train and several of --{name}: give one")
    given = {
        "parts": args.parts and tuple(args.parts),
        "sizes": tuple(args.models or SIZES),
        "batch_size": args.batch_size,
        "checkpointing": args.checkpointing,
        "dtype": args.dtype and args.dtype[0],
        "threads": args.threads and args.threads[0],
        "steps": 1 if args.quick else None,
        "seed": args.seed,
    }
    given = {name: value for name, value in given.items() if value is not None}
    return TrainingSettings(device=choose_device(args.device).partition(":")[0], **given)


def _files(args: argparse.Namespace) -> tuple[str, ...]:
    """Names of what is written to --out."""
    return TRAIN_FILES if args.train else PROFILE_FILES if args.profile else RESULT_FILES


def _check_out(args: argparse.Namespace) -> None:
    """Everything that a folder can be wrong in, before any work."""
    if args.profile and args.out is not None:
        try:
            import matplotlib  # noqa: F401  (better missed now than after the work)
        except ImportError as error:
            raise ValueError(
                "the picture of --profile needs matplotlib; run: pip install 'rtjazz-hf[eval]'"
            ) from error
    if args.out is None:
        return
    from ..audio import check_output_path

    args.out = args.out.expanduser()
    if args.out.is_dir():
        for name in _files(args):
            check_output_path(args.out / name, (Path(name).suffix,), args.overwrite)
    elif args.out.exists() or not args.out.parent.is_dir():
        raise ValueError(f"--out {args.out} can be no folder here: its parent is missing, or a file is there")
