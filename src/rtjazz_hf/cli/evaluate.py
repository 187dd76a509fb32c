"""`rtjazz evaluate`: the report of a model, its listening test, and the scores of that."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .adapters import add_adapters, check_adapters, load_adapters
from .common import Refused, add_command, add_engine, check_engine_options, check_sampling, load_pipeline

if TYPE_CHECKING:
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

# those of rtjazz_hf.evaluation.report, which takes seconds to import: too long for --help
EVALUATION_PARTS = (
    "codec", "flow", "splits", "seeds", "charts", "notes", "bends", "grooves", "similarity", "instruments", "diversity",
    "judge", "drift", "live", "hour", "speed", "steps", "listening",
)  # fmt: skip
ASKED_FOR_BY_NAME = ("bends", "grooves", "hour", "steps", "listening")

_EVALUATE_HELP = """\
Measure a pipeline on held-out takes: codec round trip, obedience to chart, key and beat, spectrum and stereo image,
notes that are heard, likeness to real takes and to words, instruments, diversity, whether a classifier tells it from
codec copies, drift over two minutes, live changes, speed. What is played is kept in OUT/clips, so that parts may be
measured by calls of their own.

example:
  rtjazz evaluate --takes takes/ --out report/ --json
  rtjazz evaluate --takes takes/ --out report/ --only steps --reference teacher/
  rtjazz evaluate --takes takes/ --out report/ --mos listening/      # a blind listening test of the same clips
  rtjazz evaluate --score-mos results/*.json --key listening/key.json
"""


def add_evaluate(commands: Any) -> None:
    parser = add_command(
        commands,
        "evaluate",
        _EVALUATE_HELP,
        run_evaluate,
        "whole number (default: 0)",
    )
    parser.add_argument(
        "--takes",
        type=Path,
        help="folder of training/prepare_corpus.py (default: compose and render new takes)",
    )
    parser.add_argument("--out", type=Path, help="folder for report, clips and pictures")
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="PART",
        help=f"some of: {', '.join(EVALUATION_PARTS)} (default: all but {', '.join(ASKED_FOR_BY_NAME)})",
    )
    parser.add_argument("--num-takes", type=int, default=40, help="takes and charts (default: %(default)s)")
    parser.add_argument("--duration", type=float, default=30.0, help="seconds of each (default: %(default)g)")
    parser.add_argument(
        "--long-duration", type=float, default=120.0, help="seconds heard for drift (default: %(default)g)"
    )
    add_adapters(parser, "they are mixed")
    parser.add_argument("--steps", type=int, help="steps a block (default: the model's)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: the model's)")
    parser.add_argument(
        "--step-takes", type=int, default=20, help="charts of the part steps (default: %(default)s)"
    )
    parser.add_argument(
        "--reference",
        metavar="MODEL",
        help="what plays 16 steps in the part steps: a pipeline, or a flow's folder, played with the model's other "
        "parts (default: the model itself)",
    )
    parser.add_argument("--clap", metavar="MODEL", help="a CLAP model by which similarity is measured too")
    parser.add_argument("--fresh", action="store_true", help="play again what OUT/clips holds already")
    parser.add_argument(
        "--mos", type=Path, metavar="DIR", help="write a listening test there (alone, without --only)"
    )
    parser.add_argument(
        "--mos-takes", type=int, default=8, help="charts of the listening test (default: %(default)s)"
    )
    parser.add_argument(
        "--score-mos", nargs="+", type=Path, metavar="RESULT", help="score the files that listeners saved"
    )
    parser.add_argument("--key", type=Path, help="key.json of the listening test that is scored")
    add_engine(parser, default="torch")  # what a model is measured by does not hang on the machine


def run_evaluate(args: argparse.Namespace) -> int:
    if args.score_mos or args.key:
        return _score(args)
    parts = _check(args)
    pipe = load_pipeline(args)
    if load_adapters(pipe, args):
        pipe.fuse_lora()  # so that every part measures the model that plays so, and its clips are kept apart
    reference = None
    if args.reference is not None:
        reference = _load_reference(args, pipe)
    from ..evaluation.report import evaluate

    report = evaluate(
        pipe,
        args.takes,
        args.out,
        only=parts,
        reference_pipe=reference,
        clap=args.clap,
        listening_dir=args.mos,
        fresh=args.fresh,
        num_takes=args.num_takes,
        duration=args.duration,
        long_duration=args.long_duration,
        step_takes=args.step_takes,
        listening_takes=args.mos_takes,
        steps=args.steps,
        guidance_scale=args.guidance,
        seed=args.seed or 0,
    )
    if args.json:
        print(json.dumps(report))
    return 0


def _load_reference(args: argparse.Namespace, pipe: RealTimeJazzPipeline) -> RealTimeJazzPipeline:
    """The pipeline that `--reference` names; of a flow alone, as train_flow.py's folder holds it, `pipe` with that."""
    folder = Path(args.reference).expanduser()
    if not (folder / "config.json").is_file() or (folder / "model_index.json").is_file():
        return load_pipeline(argparse.Namespace(**{**vars(args), "model": args.reference}))
    from ..flow import FlowMatchScheduler
    from ..hub import load_part, part_folder

    flow = load_part(part_folder(folder, "transformer"), "transformer")
    for name in ("num_channels", "feature_dim", "style_dim"):
        own, theirs = getattr(pipe.transformer.config, name), getattr(flow.config, name)
        if theirs != own:
            raise ValueError(
                f"--reference {folder}: its flow has {name} {theirs}, that of {args.model} {own}: they do not share a "
                "codec and a style encoder; give the whole pipeline of the reference"
            )
    parts = {name: getattr(pipe, name) for name in ("codec", "style_encoder", "tokenizer")}
    reference = type(pipe)(
        **parts,
        transformer=flow.to(pipe.device, pipe.transformer.dtype),
        scheduler=FlowMatchScheduler(shift=flow.config.sampling_defaults["shift"]),
        block_frames=pipe.config.block_frames,
        window_frames=pipe.config.window_frames,
    )
    reference.register_to_config(_name_or_path=str(folder))
    return reference


def _check(args: argparse.Namespace) -> list[str] | None:
    """The parts to measure; what can be refused is refused before a model is read."""
    parts = args.only
    if args.mos is not None:
        parts = list(dict.fromkeys([*(parts or ()), "listening"]))
    if unknown := sorted(set(parts or ()) - set(EVALUATION_PARTS)):
        raise Refused(f"--only {' '.join(unknown)}: choose from {', '.join(EVALUATION_PARTS)}")
    if args.out is None:
        raise Refused("give --out, a folder for report, clips and pictures")
    if args.takes is not None and not args.takes.is_dir():
        raise Refused(f"--takes {args.takes}: no such folder; write one with training/prepare_corpus.py")
    for name, folder in (("--out", args.out), ("--mos", args.mos)):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise Refused(f"{name} {folder} is a file; give a folder")
    if args.mos is not None and (args.mos / "key.json").exists():
        raise Refused(f"--mos {args.mos}: a listening test is there already; choose another folder")
    if args.reference is not None and "steps" not in (parts or ()):
        raise Refused("--reference plays in the part steps alone: give --only steps too")
    for name in ("num_takes", "step_takes", "mos_takes"):
        if getattr(args, name) < 1:
            raise Refused(f"--{name.replace('_', '-')} {getattr(args, name)}: choose 1 or more")
    for name, least in (("duration", 0), ("long_duration", 2)):
        value = getattr(args, name)
        if not (math.isfinite(value) and value > 0 and least <= value <= 600):
            raise Refused(
                f"--{name.replace('_', '-')} {value:g}: choose {f'{least} to' if least else 'more than 0 and at most'} "
                "600 seconds"
            )
    check_sampling(args)
    check_engine_options(args)
    try:
        check_adapters(args)
    except (ValueError, OSError) as error:
        raise Refused(str(error)) from error
    return parts


def _score(args: argparse.Namespace) -> int:
    """Mean opinion scores of what listeners saved: a table for people, JSON for programs."""
    if not (args.score_mos and args.key):
        raise Refused("--score-mos RESULT ... and --key KEY belong together")
    from ..evaluation.listening_test import score_listening_test, scores_table
    from ..evaluation.writing import to_columns, to_plain

    try:
        scores = score_listening_test(args.score_mos, args.key, seed=args.seed or 0)
    except (ValueError, OSError) as error:
        raise Refused(str(error)) from error
    print(to_columns(*scores_table(scores)), file=sys.stderr)
    print(
        f"{scores['listeners']} listeners, {scores['items']} charts, {scores['ratings']} ratings",
        file=sys.stderr,
    )
    for warning in scores["warnings"]:
        print(f"warning: {warning}", file=sys.stderr)
    if args.json:
        print(json.dumps(to_plain(scores)))
    return 0
