"""Two minutes on a steady chart: is the second minute still the music of the first ten seconds?"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from rtjazz_hf import __version__

from .. import pictures
from ..clip_store import StoredClip, clip_key
from ..measures import drift as drift_measures
from ..measures.metrics import OCTAVE_CENTRES
from ..run import AT_ONCE
from ..takes import HeldOutTake, choose_takes, composed_performance, steady

if TYPE_CHECKING:
    from rtjazz_hf.music import LeadSheet

    from ..run import EvaluationRun

MORE_STARTS = 4  # clips of the first seconds alone, further and further into the form


def measure_drift(run: EvaluationRun) -> dict[str, Any]:
    """Late seconds against the first, of what is generated and of the composer's own performance of the same sheets."""
    length = run.settings.long_duration
    stretch = min(10.0, length / 4)
    early, late = (0.0, stretch), (length / 2, length)
    takes = choose_takes(run.takes, AT_ONCE, run.settings.duration)
    sheets = [steady(take.lead_sheet) for take in takes]
    seeds = [100 + place for place in range(len(takes))]
    clips = run.play(takes, sheets, "long", length, seeds)
    more: list[list[tuple[StoredClip, LeadSheet]]] = [[] for _ in takes]
    for turn in range(1, MORE_STARTS + 1):
        later = [
            dataclasses.replace(sheet, beat_offset=sheet.beat_at(turn * stretch) % sheet.num_beats)
            for sheet in sheets
        ]
        starts = run.play(takes, later, f"start-{turn}", stretch, [seed + 100 * turn for seed in seeds])
        for place, start in enumerate(starts):
            more[place].append((start, later[place]))
    generated = [
        drift_measures.drift(
            clip.audio(), sheet, early, late, more_starts=[(start.audio(), at) for start, at in others]
        )
        for clip, sheet, others in zip(clips, sheets, more)
    ]
    composed = _composed(run, takes, sheets, early, late)
    result = {
        "early": early,
        "late": late,
        "generated": drift_measures.sum_up_drift(generated),
        "composed": drift_measures.sum_up_drift(composed) if composed else None,
        "clips": generated,
        "composed_clips": composed,
    }
    _rows(run, result)
    levels = {"generated": np.array([one["levels"] for one in generated])}
    if composed:
        levels["composed"] = np.array([one["levels"] for one in composed])
    run.picture(pictures.plot_drift(levels, stretch, run.out_dir / "drift.png"))
    return result


def _composed(
    run: EvaluationRun,
    takes: list[HeldOutTake],
    sheets: list[LeadSheet],
    early: drift_measures.Stretch,
    late: drift_measures.Stretch,
) -> list[dict[str, Any]]:
    """The same of performances that do not drift; none where nothing can be rendered."""
    from rtjazz_hf.corpus.renderer import RendererUnavailable

    seconds = late[1]

    def make(places: list[int]) -> list[tuple[np.ndarray, dict[str, Any]]]:
        made = []
        for place in places:
            sheet, audio = composed_performance(sheets[place], seconds, run.settings.seed + place)
            made.append((audio, {"notes": {"beat_offset": sheet.beat_offset}}))
        return made

    keys = [
        clip_key("composed", __version__, sheet.to_dict(), seconds, run.settings.seed + place)
        for place, sheet in enumerate(sheets)
    ]
    try:
        clips = run.store.get_or_make([f"{take.name}-composed" for take in takes], keys, make)
    except (RendererUnavailable, ImportError) as error:
        run.say(f"  without the composer's own performances: {error}")
        return []
    return [
        drift_measures.drift(
            clip.audio(), dataclasses.replace(sheet, beat_offset=clip.notes["beat_offset"]), early, late
        )
        for clip, sheet in zip(clips, sheets)
    ]


def _rows(run: EvaluationRun, result: dict[str, Any]) -> None:
    (_, stretch), (start, end) = result["early"], result["late"]
    ours, theirs = result["generated"], result["composed"]
    what = f"drift, {start:g}-{end:g} s against 0-{stretch:g} s of {ours['clips']} clips"
    bands = np.asarray(ours["band_db"])
    worst = int(np.abs(bands).argmax())
    beside = ""
    if theirs:
        beside = f"; composed performances {min(theirs['band_db']):+.1f}..{max(theirs['band_db']):+.1f} dB"
    run.row(
        f"{what}: octave bands (mean)",
        "within 3 dB",
        f"{bands.min():+.1f}..{bands.max():+.1f} dB, most at {OCTAVE_CENTRES[worst]:g} Hz (± "
        f"{ours['band_error'][worst]:.1f}; single clips up to {ours['max_band_db']:.1f} dB){beside}",
        bool(np.abs(bands).max() <= 3),
    )
    if theirs:
        beside = (
            f"; composed performances {100 * theirs['chord_change']:+.0f} ± {100 * theirs['chord_error']:.0f}"
        )
    run.row(
        "the same: chord obedience in the same bars of the form",
        "at most 5 points lower",
        f"{100 * ours['chord_early']:.0f}% -> {100 * ours['chord_late']:.0f}% ({100 * ours['chord_change']:+.0f} ± "
        f"{100 * ours['chord_error']:.0f} points, {ours['chord_counts'][0]} and {ours['chord_counts'][1]} chords)"
        f"{beside}",
        None if np.isnan(ours["chord_change"]) else bool(ours["chord_change"] >= -0.05),
    )
    run.row(
        f"the same: longest silence in {end:g} s",
        "< 0.5 s",
        f"{ours['longest_silence_s']:.2f} s",
        ours["longest_silence_s"] < 0.5,
    )
