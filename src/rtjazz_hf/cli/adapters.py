"""Personal styles on the command line: `--adapter`, of `generate`, `play` and `evaluate`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Refused

if TYPE_CHECKING:
    from ..pipeline_realtime_jazz import RealTimeJazzPipeline


def add_adapters(parser: Any, several: str) -> None:
    """The option; `several` says what it means to give it more than once."""
    parser.add_argument(
        "--adapter", action="append", default=[], type=_source, metavar="WHERE[=STRENGTH]",
        help="a personal style: a folder, such as what `rtjazz adapt` wrote, or a Hub id, and how much of it, -2 to 2 "
        f"(default: 1); given several times, {several}",
    )  # fmt: skip


def _source(text: str) -> tuple[str, float]:
    where, _, strength = text.rpartition("=")
    try:
        value = float(strength) if where else 1.0
    except ValueError:
        where, value = text, 1.0  # a folder's name may hold an equals sign
    if not abs(value) <= 2:
        raise argparse.ArgumentTypeError(f"{text!r}: choose a strength from -2 to 2")
    return where or text, value


def check_adapters(args: argparse.Namespace) -> None:
    """Refuse what is no adapter's folder, before a model is read.

    Raises:
        ValueError, OSError: naming it.
    """
    for source, _ in args.adapter:
        if Path(source).expanduser().exists():
            from ..hub.adapter_folder import check_adapter_folder, find_adapter

            check_adapter_folder(find_adapter(source))


def load_adapters(pipe: RealTimeJazzPipeline, args: argparse.Namespace) -> dict[str, float]:
    """Load what `--adapter` names, and make it what `pipe` plays; names and strengths.

    Raises:
        Refused: it is not to be had, or was not made for this model.
    """
    from ..adapters import adapter_name_of

    mix: dict[str, float] = {}
    for source, strength in args.adapter:
        name = wanted = adapter_name_of(source)
        while name in mix:
            name = f"{wanted}-{len(mix) + 1}"
        try:
            pipe.load_lora_weights(source, name)
        except (ValueError, OSError) as error:
            raise Refused(f"--adapter {source}: {error}") from error
        mix[name] = strength
        if called := pipe.adapter_bank.adapters[name].style_name:
            print(f'--adapter {source}: the words "in the style of {called}" call it', file=sys.stderr)
    if mix:
        pipe.set_adapters(list(mix), list(mix.values()))
    return mix


__all__ = ["add_adapters", "check_adapters", "load_adapters"]
