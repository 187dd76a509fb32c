"""What the commands share about notes: the options, the melody's file, and what is said about it."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Refused

if TYPE_CHECKING:
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline


def add_notes(parser: Any) -> None:
    """The options that say which notes are told."""
    parser.add_argument(
        "--melody", type=Path, metavar="FILE", help="a tune to play: MIDI (.mid) or MusicXML (.musicxml, .mxl)"
    )
    parser.add_argument(
        "--parts", choices=("band", "free"),
        help="band: a band writes everybody's notes; free: none are told but the melody's (default: the model's)",
    )  # fmt: skip


@contextmanager
def telling_remarks() -> Iterator[None]:
    """What there is to say about a file of notes goes to stderr, a line each."""
    from ..band import ScoreWarning

    shown = warnings.showwarning

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, ScoreWarning):
            print(f"rtjazz: {message}", file=sys.stderr, flush=True)
        else:
            shown(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ScoreWarning)
        warnings.showwarning = show
        yield


def read_melody(args: argparse.Namespace) -> None:
    """Put the score of `--melody` in the place of its path; `args.melody_file` keeps that.

    Raises:
        ValueError, OSError, ImportError: as `Score.from_file`.
    """
    from ..band import Score

    args.melody_file = args.melody
    if args.melody is not None:
        with telling_remarks():
            args.melody = Score.from_file(args.melody)


def check_notes(args: argparse.Namespace, pipe: RealTimeJazzPipeline, names: Sequence[str]) -> None:
    """Refuse the options of notes that were given to a model that reads none."""
    asked = [f"--{name}" for name in names if getattr(args, name) is not None]
    if args.parts == "band":
        asked.append("--parts band")
    if asked and not pipe.transformer.config.score_dim:
        raise Refused(
            f"{', '.join(asked)}: the model {args.model} reads chords and no notes (its score_dim is 0); give --model "
            "one that was trained with notes, or leave them out"
        )
