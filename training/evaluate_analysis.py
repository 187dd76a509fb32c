"""How much of a recording is heard right when an adapter's training prepares it: tempo, key, chords, beats.

    python training/evaluate_analysis.py --players players/ana players/ben --takes data/corpus --limit 40

Players are those of make_players.py, a corpus is one of prepare_corpus.py. Nothing is told of either.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rtjazz_hf.audio import read_audio
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.personal import analyse
from rtjazz_hf.music import LeadSheet
from rtjazz_hf.music.chart import ChordSpan
from rtjazz_hf.music.key_finding import estimate_key
from rtjazz_hf.trainers.run import input_errors

CHARTS = "charts.json"  # as make_players.py writes it
CLOSE = 0.03  # of a tempo: what counts as right


def hear(path: Path, sheet: LeadSheet) -> dict[str, float | bool]:
    """Whether `tempo` and `key` of one recording are found, on which share of beats the chord's `root`, and by how
    many beats they are `late` (median).

    Raises:
        ValueError: it is refused.
    """
    heard = analyse(read_audio(path))
    right = []
    for time, chord in zip(heard.times, heard.chords):
        # Asked a little behind the beat, where the chord of one that is heard early has begun too.
        played = sheet.chord_segments(time + 0.08, 0.05)
        right.append(bool(played) and played[0][2].root == chord.root)
    beats = heard.times * sheet.tempo / 60 + sheet.beat_offset
    return {
        "tempo": abs(60 / np.diff(heard.times).mean() / sheet.tempo - 1) < CLOSE,
        "key": estimate_key([ChordSpan(chord, 1.0) for chord in heard.chords]) == sheet.key,
        "root": float(np.mean(right)),
        "late": float(np.median((beats + 0.5) % 1 - 0.5)),
    }


def evaluate(takes: Iterable[tuple[Path, LeadSheet]]) -> dict[str, float]:
    """`takes`, `tempo` and `refused` (counts); means of `key`, `root` and `late` over those that are not refused."""
    rows, refused = [], []
    for path, sheet in takes:
        try:
            rows.append(hear(path, sheet))
        except ValueError as error:
            refused.append(f"{path}: {error}")
    for line in refused:
        print(f"refused {line}")
    measures: dict[str, float] = {"takes": len(rows) + len(refused), "refused": len(refused)}
    if rows:
        measures["tempo"] = sum(bool(row["tempo"]) for row in rows)
        measures |= {name: float(np.mean([row[name] for row in rows])) for name in ("key", "root", "late")}
    return measures


def of_player(folder: Path) -> list[tuple[Path, LeadSheet]]:
    """The takes of a player of make_players.py.

    Raises:
        FileNotFoundError: it has no charts.
    """
    try:
        charts = json.loads((folder / CHARTS).read_text())
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"'{folder}' has no {CHARTS}; run: python training/make_players.py --out {folder.parent}"
        ) from error
    return [(folder / "takes" / name, LeadSheet.from_dict(sheet)) for name, sheet in charts.items()]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--players", type=Path, nargs="*", default=[], help="folders of make_players.py")
    parser.add_argument("--takes", type=Path, help="folder of a corpus (rtjazz_hf.corpus)")
    parser.add_argument("--limit", type=int, default=40, help="takes of the corpus (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of their choice")
    args = parser.parse_args(argv)
    if not (args.players or args.takes):
        parser.error("give --players, --takes or both")
    with input_errors():
        sets = {str(folder): of_player(folder) for folder in args.players}
        if args.takes:
            takes = load_takes(args.takes)
            chosen = np.random.default_rng(args.seed).permutation(len(takes))[: args.limit]
            sets[str(args.takes)] = [(takes[i].path, takes[i].lead_sheet) for i in chosen]
        for name, pairs in sets.items():
            found = evaluate(pairs)
            line = f"{name}: {found['takes']:.0f} takes, {found['refused']:.0f} refused"
            if "tempo" in found:
                line += (
                    f"; of the others tempo right in {found['tempo']:.0f}, key in {found['key']:.0%}, root on "
                    f"{found['root']:.0%} of beats, beats late by {found['late']:.3f} of one"
                )
            print(line, flush=True)


if __name__ == "__main__":
    main()
