"""Grooves and metres: chords and beats of each, beside 4/4 swing and beside the band's own renders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rtjazz_hf.music import GROOVE_GENRES
from rtjazz_hf.music.metre import Metre

from ...corpus.renderer import RendererUnavailable
from ..measures import obedience
from ..takes import composed_take, looping, sound_fonts

if TYPE_CHECKING:
    from ..run import EvaluationRun

# Genre, and a metre other than the genre's own.
PLAIN: tuple[str, str | None] = ("swing", "4/4")
METRES: tuple[tuple[str, str | None], ...] = (
    ("swing", "2/4"), ("waltz", None), ("modal", "5/4"), ("cool", "5/4(2+3)"), ("modal", "6/4"), ("hard_bop", "7/4"),
    ("modal", "3/8"), ("blues", "6/8"), ("modal", "9/8"), ("blues", "12/8"), ("swing", "2/2"),
)  # fmt: skip
WITHIN = 0.03  # of 4/4 swing


def measure_grooves(run: EvaluationRun) -> dict[str, Any]:
    """Charts of every groove and of every metre, composed from seeds that no corpus uses, played as any chart is."""
    number, seconds = run.settings.groove_takes, run.settings.groove_seconds
    kinds = [PLAIN, *((genre, None) for genre in GROOVE_GENRES), *METRES]
    try:
        sound_fonts()
    except RendererUnavailable as error:
        run.row("grooves and metres", "-", f"not measured: {error}", None)
        return {"skipped": str(error)}
    found: dict[str, dict[str, float]] = {}
    for place, (genre, metre) in enumerate(kinds):
        told = None if metre is None else Metre.parse(metre)
        takes = [
            composed_take(f"groove-{place:02d}-{turn}", [run.settings.seed, place, turn], seconds, genre, told)
            for turn in range(number)
        ]
        sheets = [looping(take.lead_sheet) for take in takes]
        clips = run.play(takes, sheets, "groove", seconds, range(number))
        scores = [
            obedience.chart_scores(clip.audio(), take.audio(seconds), sheet, take.lead_sheet)
            for clip, take, sheet in zip(clips, takes, sheets)
        ]
        name = f"{genre}, {takes[0].lead_sheet.metre_of(0)}"
        found[name] = obedience.mean_chart_scores(scores)
        run.say(f"  {name}: heard")
    _rows(run, found, number)
    return {"kinds": found, "tables": [_table(found)]}


def _rows(run: EvaluationRun, found: dict[str, dict[str, float]], number: int) -> None:
    plain, *others = found
    for key, what in (("chord_generated", "chords heard as asked"), ("beat_f", "beat F")):
        render = key.replace("generated", "render") if "chord" in key else f"{key}_render"
        wanted = found[plain][key]
        within = [name for name in others if found[name][key] >= wanted - WITHIN]
        worst = min(others, key=lambda name: found[name][key])
        share = min(others, key=lambda name: found[name][key] - found[name][render])
        run.row(
            f"{what}: {len(others)} grooves and metres, {number} charts each, beside 4/4 swing",
            f"within {WITHIN:.2f}",
            f"{len(within)} of {len(others)} (swing {wanted:.3f}, renders {found[plain][render]:.3f}; least {worst} "
            f"{found[worst][key]:.3f}, renders {found[worst][render]:.3f}; farthest under its own renders {share} "
            f"{found[share][key]:.3f}, renders {found[share][render]:.3f})",
            len(within) == len(others),
        )


def _table(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    """A line a groove."""
    keys: Sequence[str] = ("chord_generated", "chord_rotated", "chord_render", "beat_f", "beat_f_render")
    rows = [[name, *(f"{scores[key]:.2f}" for key in keys)] for name, scores in found.items()]
    header = ["groove, metre", "chords", "of a rotated chart", "of renders", "beat F", "of renders"]
    return {"title": "Groove by groove", "header": header, "rows": rows}
