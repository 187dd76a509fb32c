"""`rtjazz charts`: what is read of a chart, bar by bar, and what is not; and the options that take charts."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import COMMANDS, Refused

if TYPE_CHECKING:
    from ..charts import Tune
    from ..music import ParsedChart

_HELP = """\
Show what is read of a chart: iReal Pro links and playlists, MusicXML and .mxl, MIDI, ChordPro, text.

example:
  rtjazz charts show tune.musicxml
  rtjazz charts show playlist.html --tune "Blue"
  rtjazz charts list playlist.html --check
  rtjazz charts show tune.txt --text > tune.chart
"""
_A_LINE = 4  # bars


def add_charts(commands: Any) -> None:
    parser = commands.add_parser(
        "charts", help=COMMANDS["charts"], description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    what = parser.add_subparsers(title="what", metavar="WHAT", required=True, dest="what")
    show = what.add_parser("show", help="a chart, bar by bar, and what was not read")
    show.add_argument("--tune", help="number or title, where there are several")
    as_what = show.add_mutually_exclusive_group()
    as_what.add_argument("--text", action="store_true", help="print it in the chart language")
    as_what.add_argument("--link", action="store_true", help="print it as an iReal Pro link")
    listing = what.add_parser("list", help="the tunes in a file or playlist")
    listing.add_argument(
        "--check", action="store_true", help="read each, and say which cannot be played and why"
    )
    for each, run in ((show, run_show), (listing, run_list)):
        each.add_argument("source", metavar="FILE", help="a file, an iReal Pro link, or - for standard input")
        each.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
        each.add_argument("--debug", action="store_true", help="show the traceback of an error")
        each.set_defaults(run=run)


def add_chart_options(parser: Any) -> None:
    """The options that bring a chart from elsewhere and make it something to practise."""
    parser.add_argument(
        "--chart", dest="chords", type=chart_argument, metavar="FILE",
        help="instead of --chords: a file (MusicXML, .mxl, MIDI, iReal Pro, ChordPro, text), a link, or - ; "
        "FILE#TITLE is one of several tunes",
    )  # fmt: skip
    parser.add_argument("--transpose", metavar="BY", help="of the chart: +2, -3, or a key such as Bb")
    parser.add_argument(
        "--all-keys", nargs="?", const="fourths", choices=("fourths", "semitones"),
        help="a chorus of the chart in each of twelve keys (default: by fourths)",
    )  # fmt: skip
    parser.add_argument("--only-bars", metavar="9-16", help="these bars of the chart, over and over")
    parser.add_argument(
        "--rests", metavar="piano/2",
        help="who rests by the clock: piano/2 (out every second chorus), drums:4+4 (four bars on, four off)",
    )  # fmt: skip
    parser.add_argument("--swing", type=float, help="of the chart: 0 (straight) to 1 (triplets)")


def chart_argument(text: str) -> str:
    """The chart that a file, a link or `-` holds, as text in the chart language."""
    try:
        return _chosen(text).chart().to_text()
    except (ValueError, OSError, ImportError) as error:
        raise argparse.ArgumentTypeError(_reason(text, error)) from error


def practise(args: argparse.Namespace) -> None:
    """Put what --transpose, --all-keys, --only-bars, --rests and --swing ask for into `args.chords`.

    Raises:
        Refused: there is no chart, or what is asked cannot be.
    """
    wishes = ("transpose", "all_keys", "only_bars", "rests", "swing")
    asked = [name for name in wishes if getattr(args, name, None) is not None]
    if not asked:
        return
    if args.chords is None:
        raise Refused(f"--{asked[0].replace('_', '-')} needs a chart: give --chart or --chords")
    import dataclasses

    from ..charts import sent_text
    from ..music import parse_chart, practice
    from ..music.vocabulary import check_swing

    try:
        chart = parse_chart(sent_text(args.chords))
        on_it = {name: getattr(args, name) for name in ("only_bars", "transpose", "all_keys")}
        chart = practice.practised(chart, {name: wish for name, wish in on_it.items() if wish is not None})
        if args.rests is not None:
            chart = dataclasses.replace(chart, rests=practice.rests_of(args.rests))
        if args.swing is not None:
            check_swing(args.swing)
            chart = dataclasses.replace(chart, swing=args.swing)
    except ValueError as error:
        raise Refused(str(error)) from error
    args.chords = chart.to_text()
    args.transpose = args.all_keys = args.only_bars = args.rests = args.swing = None


def tell(prompt: str, chords: str | None) -> None:
    """Say, a line each, what was asked for and is not played; the pipeline's own warnings are then not needed."""
    import warnings

    from ..band.band_leader import NotPlayed, told

    warnings.simplefilter("ignore", NotPlayed)
    for line in told(prompt, chords):
        print(f"rtjazz: not played: {line}", file=sys.stderr)


def _reason(source: str, error: Exception) -> str:
    shown = source if len(source) < 80 else source[:60] + " ..."
    if isinstance(error, OSError):
        return f"{shown}: {error.strerror or error}"
    return str(error)


def _tunes(source: str) -> list[Tune]:
    from ..charts import read_tunes

    if source == "-":
        return read_tunes(sys.stdin.buffer.read(17 << 20))
    if re.match(r"ireal(?:b|book)://", source):
        return read_tunes(source)
    return read_tunes(Path(source))


def _chosen(source: str, wanted: str | None = None) -> Tune:
    from ..charts import choose_tune

    if wanted is None and "#" in source and not (len(source) < 1024 and Path(source).exists()):
        source, _, wanted = source.rpartition("#")
    return choose_tune(_tunes(source), wanted)


def run_list(args: argparse.Namespace) -> int:
    try:
        tunes = _tunes(args.source)
    except (ValueError, OSError, ImportError) as error:
        raise Refused(_reason(args.source, error)) from error
    rows = []
    for number, tune in enumerate(tunes, 1):
        row: dict[str, Any] = {"number": number, "title": tune.title, "format": tune.format}
        if args.check:
            try:
                chart = tune.chart()
                row |= {"plays": True, "bars": len(chart.bars), "remarks": list(chart.remarks)}
            except ValueError as error:
                row |= {"plays": False, "reason": str(error)}
        rows.append(row)
    for row in rows:
        end = (
            ""
            if not args.check
            else f"  {row['bars']} bars"
            if row["plays"]
            else f"  not played: {row['reason']}"
        )
        print(f"{row['number']:4} {row['title']}{end}", file=sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(rows))
    return 0


def run_show(args: argparse.Namespace) -> int:
    try:
        tune = _chosen(args.source, args.tune)
        chart = tune.chart()
        link = _link(chart) if args.link else None
    except (ValueError, OSError, ImportError) as error:
        raise Refused(_reason(args.source, error)) from error
    if args.json:
        print(json.dumps(_as_json(tune, chart)))
    elif args.text:
        print(chart.to_text())
    elif link is not None:
        print(link)
    else:
        print("\n".join(_lines(tune, chart)))
    for remark in chart.remarks if args.text or args.link or args.json else ():
        print(f"rtjazz: {remark}", file=sys.stderr)
    return 0


def _link(chart: ParsedChart) -> str:
    from ..charts import to_link

    return to_link(chart)


def _as_json(tune: Tune, chart: ParsedChart) -> dict[str, Any]:
    return {
        "title": chart.title or tune.title, "composer": chart.composer, "style": chart.style, "key": chart.key,
        "tempo": chart.tempo, "swing": chart.swing, "format": tune.format, "bars_written": len(chart.written),
        "bars": [
            {"metre": str(metre), "chords": [[span.chord.symbol, span.beats, span.kind] for span in bar]}
            for bar, metre in zip(chart.bars, chart.metres, strict=True)
        ],
        "sections": [[bar + 1, name] for bar, name in chart.labels],
        "remarks": list(chart.remarks), "text": chart.to_text(),
    }  # fmt: skip


def _lines(tune: Tune, chart: ParsedChart) -> list[str]:
    facts = [
        chart.style,
        f"key {chart.key}" if chart.key else "",
        f"{chart.tempo:g} BPM" if chart.tempo else "",
    ]
    head = [f"{chart.title or tune.title or 'untitled'}{f' ({chart.composer})' if chart.composer else ''}"]
    facts = [
        fact for fact in (*facts, str(chart.metre), f"{len(chart.bars)} bars as played", tune.format) if fact
    ]
    out = [*head, ", ".join(facts)]
    names = dict(chart.labels)
    row: list[str] = []
    metre = None
    for index, bar in enumerate(chart.bars):
        if index in names or len(row) == _A_LINE:
            out += [_row(index - len(row), row)] if row else []
            row = []
        if index in names:
            out.append(f"[{names[index]}]")
        words = [_word(span) for span in bar]
        sign = "" if chart.metres[index] == metre else f"{chart.metres[index]} "
        metre = chart.metres[index]
        row.append(sign + " ".join(words))
    out += [_row(len(chart.bars) - len(row), row)] if row else []
    out += ["", *(f"not played: {remark}" for remark in chart.remarks)] if chart.remarks else []
    return out


def _word(span: Any) -> str:
    beats = f":{span.beats:g}"
    return {"hold": f"<{span.chord}>", "break": f"{span.chord} (break)"}.get(
        span.kind, str(span.chord)
    ) + beats


def _row(first: int, cells: list[str]) -> str:
    return f"{first + 1:4} | " + " | ".join(f"{cell:<16}" for cell in cells) + " |"
