"""`rtjazz adapt`: a personal style from a folder of recordings."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..trainers.config import PERSONAL_SETTINGS
from .common import Refused, add_command, quiet_libraries

_HELP = """\
Learn a style from your own recordings (wav, flac, ogg, mp3, aiff; ten minutes are good, one is the least).
Tempo, swing, key and chords are found by ear; labels.json in the folder may give them instead:
  {"blues.wav": {"tempo": 126, "key": "Bb", "chords": "Bb7 | Eb7 | Bb7 | %", "swing": 0.8}}
Copies at other tempi are made of them, so that the style is not tied to those that were played.
The same command goes on where it was stopped.

example:
  rtjazz adapt my_takes/ -o my-style/ --name me --max-minutes 50
"""


def add_adapt(commands: Any) -> None:
    parser = add_command(commands, "adapt", "learn a style from recordings", _HELP, run_adapt,
                         "whole number (default: 0)", dtype=False)  # fmt: skip
    parser.add_argument("recordings", type=Path, help="folder of recordings")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder for the run; OUTPUT/adapter is it"
    )
    parser.add_argument("--name", default="me", help='"in the style of NAME" calls it (default: %(default)s)')
    parser.add_argument("--instruments", default="piano,bass,drums", help="who plays (default: %(default)s)")
    parser.add_argument(
        "--max-minutes",
        type=float,
        default=PERSONAL_SETTINGS["max_minutes"],
        help="of training (default: %(default)g)",
    )
    parser.add_argument(
        "--max-steps", type=int, default=PERSONAL_SETTINGS["max_steps"], help="(default: %(default)s)"
    )
    parser.add_argument(
        "--copies",
        type=int,
        default=1,
        help="of each piece at other tempi (default: %(default)s)",
    )
    parser.add_argument("--rank", type=int, default=8, help="of the adapter (default: %(default)s)")
    parser.add_argument("--dora", action="store_true", help="DoRA instead of LoRA")
    parser.add_argument("--qlora", action="store_true", help="the base in 4 bits while it learns")
    parser.add_argument("--teacher", help="the flow that a distilled model comes from, to learn on")


def run_adapt(args: argparse.Namespace) -> int:
    if not args.recordings.is_dir():
        raise Refused(f"there is no folder '{args.recordings}'; give one of recordings")
    quiet_libraries()
    from ..trainers.adapter import LoraTrainConfig, train_lora

    try:
        config = LoraTrainConfig(
            output_dir=str(args.output), recordings=str(args.recordings), base=args.model, name=args.name,
            instruments=[name.strip() for name in args.instruments.split(",")], copies=args.copies, rank=args.rank,
            alpha=2.0 * args.rank, dora=args.dora, qlora=args.qlora, teacher=args.teacher, seed=args.seed or 0,
            **PERSONAL_SETTINGS | {"max_minutes": args.max_minutes, "max_steps": args.max_steps},
        )  # fmt: skip
    except ValueError as error:
        raise Refused(str(error)) from error
    result = train_lora(config)
    print(f"{result['adapter']}: {result['minutes']:.1f} minutes of playing learnt", file=sys.stderr)
    if args.json:
        print(json.dumps(result))
    return 0
