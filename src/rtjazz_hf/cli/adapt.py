"""`rtjazz adapt`: a personal style from a folder of recordings."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from ..trainers.config import PERSONAL_SETTINGS
from .common import DEFAULT_MODEL, Refused, add_command, choose_device, quiet_libraries

_HELP = """\
Learn a style from your own recordings (wav, flac, ogg, mp3, aiff; ten minutes are good, one is the least).
Tempo, swing, key and chords are found by ear; labels.json in the folder may give them instead:
  {"blues.wav": {"tempo": 126, "key": "Bb", "chords": "Bb7 | Eb7 | Bb7 | %", "swing": 0.8}}
Copies at other tempi are made of them, so that the style is not tied to those that were played.
The same command goes on where it was stopped.

example:
  rtjazz adapt my_takes/ -o my-style/ --name me --instruments guitar,bass,brushes --max-minutes 50
  rtjazz play "medium swing in the style of me" --adapter my-style/
"""


_ASSUMED = ("piano", "bass", "drums")
_TAKE_SECONDS = 10.0


def add_adapt(commands: Any) -> None:
    parser = add_command(commands, "adapt", _HELP, run_adapt,
                         "whole number (default: 0)", dtype=False)  # fmt: skip
    parser.add_argument("recordings", type=Path, help="folder of recordings")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="folder for the run; OUTPUT/adapter is it"
    )
    parser.add_argument("--name", default="me", help='"in the style of NAME" calls it (default: %(default)s)')
    parser.add_argument(
        "--instruments", help="who plays in the recordings (where you do not say: whom the model's probe hears)"
    )
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
    parser.add_argument("--no-take", action="store_true", help="do not play a take in the style at the end")


def run_adapt(args: argparse.Namespace) -> int:
    if not args.recordings.is_dir():
        raise Refused(f"there is no folder '{args.recordings}'; give one of recordings")
    quiet_libraries()
    band, told = _band(args)
    print(told, file=sys.stderr)
    from ..trainers.adapter import LoraTrainConfig, train_lora

    try:
        config = LoraTrainConfig(
            output_dir=str(args.output), recordings=str(args.recordings), base=args.model, name=args.name,
            instruments=band, copies=args.copies, rank=args.rank,
            alpha=2.0 * args.rank, dora=args.dora, qlora=args.qlora, teacher=args.teacher, seed=args.seed or 0,
            **PERSONAL_SETTINGS | {"max_minutes": args.max_minutes, "max_steps": args.max_steps},
        )  # fmt: skip
    except ValueError as error:
        raise Refused(str(error)) from error
    print(f"learning for at most {args.max_minutes:g} minutes; --max-minutes says otherwise", file=sys.stderr)
    result = {**train_lora(config), "instruments": band}
    print(
        f"{result['adapter']}: {result['minutes_learnt']:.1f} minutes of playing learnt; "
        f"{result['minutes_held_out']:.1f} were held out, to judge it by",
        file=sys.stderr,
    )
    words = f"medium swing in the style of {args.name}"
    if not args.no_take:
        result["take"] = str(_play_take(args, words))
        print(f"{result['take']}: {_TAKE_SECONDS:g} s of it", file=sys.stderr)
    model = "" if args.model == DEFAULT_MODEL else f" --model {shlex.quote(args.model)}"
    result["play"] = f"rtjazz play {shlex.quote(words)} --adapter {shlex.quote(str(args.output))}{model}"
    print(f"play it: {result['play']}", file=sys.stderr)
    if args.json:
        print(json.dumps(result))
    return 0


def _band(args: argparse.Namespace) -> tuple[list[str], str]:
    """Who plays in the recordings, and how that is known."""
    if args.instruments is not None:
        band = [name.strip() for name in args.instruments.split(",")]
        return band, f"who plays, as you say: {', '.join(band)}"
    from ..trainers.heard_band import hear_band

    otherwise = (
        "that band will play in the style; --instruments says otherwise, such as --instruments guitar,bass,brushes"
    )
    try:
        heard = hear_band(args.recordings, args.model)
    except (FileNotFoundError, ValueError) as error:
        raise Refused(str(error)) from error
    if heard is not None:
        return heard, f"nobody said who plays: {', '.join(heard)} are heard, and {otherwise}"
    return list(_ASSUMED), f"nobody said who plays: the recordings are taken for {', '.join(_ASSUMED)}, and {otherwise}"


def _play_take(args: argparse.Namespace, words: str) -> Path:
    """A clip in the style that was learnt, beside it."""
    import torch

    from ..audio import write_audio
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

    pipe = RealTimeJazzPipeline.from_pretrained(args.model, engine="torch").to(choose_device(args.device))
    pipe.set_progress_bar_config(disable=True)
    pipe.load_lora_weights(args.output)
    generator = torch.Generator().manual_seed(args.seed or 0)
    audio = pipe(words, duration=_TAKE_SECONDS, generator=generator).audios[0]
    return write_audio(args.output / "take.flac", audio, overwrite=True)
