"""The `rtjazz` command. What is for people goes to stderr, what is for programs (`--json`) to stdout.

Exit codes: 0 done; 2 refused before any work, because of what was asked; 1 failed; 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from .. import __version__
from .common import COMMANDS, Parser, Refused


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code."""
    _open_standard_streams()
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser(next((word for word in argv if not word.startswith("-")), ""))
    try:
        args = parser.parse_args(argv)
    except SystemExit as stop:  # --help, --version, or a refused command line
        return int(stop.code or 0)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        print("rtjazz: interrupted; nothing half-written was left behind", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the program that reads our stdout has gone
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (stays open, so that the exit does not write to the pipe)
        return 1
    except Refused as error:
        return _fail(error, args.debug, code=2)
    except Exception as error:
        return _fail(error, args.debug, code=1)


def _open_standard_streams() -> None:
    """Those that were closed (`<&-`) lead nowhere: else the next file that is opened takes a closed one's number,
    and what a library prints goes into the music."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (stays open)


def _fail(error: Exception, debug: bool, code: int) -> int:
    if debug:
        raise error
    from ..runtime.files import in_words

    text = " ".join(in_words(error).split()) or type(error).__name__
    if not isinstance(
        error, (ValueError, OSError, ImportError)
    ):  # not one of our own messages: say what it is
        text = f"{type(error).__name__}: {text} (--debug shows where)"
    print(f"rtjazz: error: {text}", file=sys.stderr)
    return code


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The command line's parser; with the options of `command` alone where it is given, so that others' modules need
    not be imported."""
    parser = Parser(
        prog="rtjazz",
        description="Jazz in real time: 48 kHz stereo from words or a chord chart.",
        epilog='example:\n  rtjazz generate "Bill Evans modal jazz" -o evans.wav',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rtjazz {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")
    for name, summary in COMMANDS.items():
        if command in (None, name):
            module = importlib.import_module(f"{__name__}.{name}")
            getattr(module, f"add_{name}")(commands)
        else:
            commands.add_parser(name, help=summary)
    return parser
