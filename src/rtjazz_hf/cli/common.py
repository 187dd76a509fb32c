"""What the `rtjazz` commands share: the parser, the options that all of them have, refusals, quiet libraries."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from ..hub import quiet_libraries
from ..runtime.engines import ENGINES, PRECISIONS, check_engine
from .quick_imports import import_quickly, uncollected

if TYPE_CHECKING:
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

__all__ = [
    "DEFAULT_MODEL",
    "DTYPES",
    "MAX_SEED",
    "Parser",
    "Refused",
    "add_command",
    "add_engine",
    "add_music",
    "check_engine_options",
    "check_sampling",
    "choose_device",
    "leave_short_music_to_torch",
    "load_pipeline",
    "quiet_libraries",
]

DEFAULT_MODEL = "rtjazz-mini"
DTYPES = ("float32", "bfloat16", "float16")
MAX_SEED = 2**31 - 1  # of those that are drawn
_ENGINE_PAYS = 60.0  # seconds of music from which on another engine than torch saves more time than its graph takes


class Refused(ValueError):
    """What was asked for cannot be done; found before any work."""


# What there is, and in a line what it is for.
COMMANDS = {
    "generate": "play a clip into a file",
    "play": "play live",
    "evaluate": "measure a model on held-out takes",
    "codec": "encode, decode and judge recordings",
    "benchmark": "measure how fast this machine plays",
    "adapt": "learn a style from recordings",
    "serve": "serve over the web",
    "charts": "show what is read of a chart",
}


class Parser(argparse.ArgumentParser):
    """One line on an error, as every other error of the command has."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"rtjazz: error: {message} (see {self.prog} --help)\n")


def add_command(
    commands: Any,
    name: str,
    description: str,
    run: Any,
    seed_help: str,
    dtype: bool = True,
    summary: str | None = None,
) -> argparse.ArgumentParser:
    """A command with the options that all have; `run(args)` does it and returns the exit code. `summary`: of one that
    is not in `COMMANDS`."""
    parser = commands.add_parser(
        name,
        help=summary or COMMANDS[name],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--model", default=DEFAULT_MODEL, help="bundled name, folder or Hub id (default: %(default)s)"
    )
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps (default: %(default)s)"
    )
    if dtype:
        parser.add_argument(
            "--dtype", choices=DTYPES, default="float32", help="of the weights (default: %(default)s)"
        )
    parser.add_argument("--seed", type=_seed, help=seed_help)
    parser.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_engine(parser: Any, default: str = "auto") -> None:
    """What computes the flow's steps, for commands that play."""
    parser.add_argument("--engine", type=_engine, metavar="ENGINE", default=default,
                        help=f"of {', '.join(ENGINES)}: what computes the flow on a CPU; auto is openvino where "
                        "it is installed and pays (default: %(default)s)")  # fmt: skip
    parser.add_argument("--engine-precision", choices=PRECISIONS, default="auto",
                        help="openvino's; auto is int8 or bfloat16 where the CPU is fast in it "
                        "(default: %(default)s)")  # fmt: skip


def _engine(text: str) -> str:
    if text in ("local", "ray"):
        raise argparse.ArgumentTypeError(f"{text!r}: where a server runs is --on {text}")
    if text not in ENGINES:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(ENGINES)}")
    return text


def leave_short_music_to_torch(args: argparse.Namespace, seconds: float) -> None:
    """Another engine chosen by itself would take longer to make its graph than it saves."""
    if args.engine == "auto" and args.engine_precision in ("auto", "float32") and seconds < _ENGINE_PAYS:
        args.engine = "torch"


def check_engine_options(args: argparse.Namespace) -> None:
    """Refuse an engine that is not to be had, before a model is read."""
    try:
        check_engine(args.engine, args.engine_precision)
    except (ValueError, ImportError) as error:
        raise Refused(str(error)) from error


def add_music(parser: Any) -> None:
    """The options that say what is to be played, beside the prompt."""
    from .charts import add_chart_options  # it knows this module

    parser.add_argument("--chords", help='chart, such as "Dm7 | G7 | Cmaj7 | %%"')
    add_chart_options(parser)
    parser.add_argument("--tempo", type=float, help="beats per minute, 40 to 320")
    parser.add_argument("--key", help="such as Bb or Am")
    parser.add_argument("--mood", help="such as relaxed or energetic")
    parser.add_argument(
        "--instruments",
        type=lambda text: [name.strip() for name in text.split(",") if name.strip()],
        help='the band, such as "piano,bass,brushes"; "--instruments=-piano" leaves the piano out',
    )


def _seed(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"{text!r}: choose a whole number from 0 to {2**63 - 1}")
    return value


def check_sampling(args: argparse.Namespace) -> None:
    """Refuse `--steps` and `--guidance` that no pipeline takes."""
    if args.steps is not None and not 1 <= args.steps <= 1000:
        raise Refused(f"--steps {args.steps}: choose 1 to 1000")
    if args.guidance is not None:
        from ..prompts import MAX_GUIDANCE_SCALE as most

        if not 0 <= args.guidance <= most:
            raise Refused(f"--guidance {args.guidance:g}: choose 0 to {most:g}; 1 is no guidance")


def choose_device(name: str) -> str:
    """The device that "auto" stands for, or `name` if it is to be had."""
    import torch

    device = name
    if device == "auto":
        device = (
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        cause = str(error).splitlines()[0]
        raise Refused(f"--device {name} is not to be had here ({cause}); choose auto or cpu") from error
    return device


def load_pipeline(args: argparse.Namespace, quickly: bool = False) -> RealTimeJazzPipeline:
    """The pipeline that `--model`, `--dtype` and `--device` name, with a progress bar where somebody watches.

    quickly: for a command that plays and does nothing else; see `quick_imports`.
    """
    device = choose_device(args.device)
    engine = getattr(args, "engine", "torch")
    if device != "cpu" and engine not in ("auto", "torch"):
        raise Refused(f"--engine {engine} plays on the CPU, and --device is {device}: leave one of them out")
    with uncollected():
        pipe = import_quickly(lambda: _loaded(args, device)) if quickly else _loaded(args, device)
        if device == "cpu" and engine != "torch":
            pipe.use_engine(engine, args.engine_precision)  # tracers want the libraries whole
    pipe.set_progress_bar_config(desc="playing", unit="step", leave=False, disable=not sys.stderr.isatty())
    return pipe


def _loaded(args: argparse.Namespace, device: str) -> RealTimeJazzPipeline:
    quiet_libraries()  # before they are imported
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline

    return RealTimeJazzPipeline.from_pretrained(args.model, dtype=args.dtype, engine="torch").to(device)
