"""Held-out charts: obedience to chords and beat, spectrum and stereo image, each beside the reference rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rtjazz_hf.audio import SAMPLE_RATE

from .. import pictures
from ..measures import metrics, obedience
from ..measures.embeddings import noise_like
from ..measures.keys import key_part, tempo_part
from ..measures.obedience import Heard
from ..measures.stereo import stereo_difference, stereo_statistics

if TYPE_CHECKING:
    from ..clip_store import StoredClip
    from ..run import EvaluationRun

HEARD = ("generated", "held_out", "reconstruction", "noise")
# "shuffled" is what was generated, held against another take's chart.
_SHOWN_SECONDS = 20.0


def measure_charts(run: EvaluationRun) -> dict[str, Any]:
    """Play every held-out chart and measure it beside its render and what else tells good from bad."""
    clips, back = run.generated(), run.reconstructed()
    each = [_chart(run, place, clip, copy) for place, (clip, copy) in enumerate(zip(clips, back))]
    summary = summarise(each)
    _rows(run, summary)
    _, rows = tempo_part(*([chart[key] for chart in each] for key in ("tempo_error", "tempo_error_render")))
    run.add_rows(rows)
    keys, rows = key_part(
        [clip.audio() for clip in clips],
        [take.audio(run.settings.duration) for take in run.chart_takes],
        run.chart_sheets,
    )
    run.add_rows(rows)
    summary["keys"] = keys
    _references(run, summary)
    _draw(run, clips, each)
    return {"summary": summary, "charts": each, "tables": [_table(each)]}


def _chart(run: EvaluationRun, place: int, clip: StoredClip, back: StoredClip) -> dict[str, Any]:
    take, sheet = run.chart_takes[place], run.chart_sheets[place]
    render = take.audio(run.settings.duration)
    heard = {
        "generated": Heard(clip.audio()),
        "held_out": Heard(render),
        "reconstruction": Heard(back.audio()),
        "noise": Heard(noise_like(render, place)),
    }
    scores = obedience.chart_scores(heard["generated"], heard["held_out"], sheet, take.lead_sheet)
    chords = {"generated": scores["chord_generated"], "held_out": scores["chord_render"]}
    beats = {"generated": scores["beat_f"], "held_out": scores["beat_f_render"]}
    others = [(kind, heard[kind], take.lead_sheet) for kind in ("reconstruction", "noise")]
    if (other := run.others()[place]) != place:
        others.append(("shuffled", heard["generated"], run.chart_sheets[other]))
    for kind, what, asked in others:
        chords[kind] = obedience.chord_rates(what, asked)[0]
        beats[kind] = obedience.beat_f_measure(what, asked)
    bands = {kind: metrics.band_energies(heard[kind].audio) for kind in HEARD}
    return {
        "take": take.name, "seed": run.settings.seed + place, "caption": take.caption,
        "genre": sheet.genre, "key": sheet.key, "tempo": sheet.tempo,
        "beats_per_bar": sheet.beats_per_bar,
        "sanity": clip.sanity,
        **scores,
        "chord_rates": chords, "beat_fs": beats, "bands_db": bands,
        "band_difference_db": bands["generated"] - bands["held_out"],
        "stereo": {kind: stereo_statistics(heard[kind].audio) for kind in HEARD},
    }  # fmt: skip


def summarise(charts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the charts, of what was generated and of what stands beside it.

    Returns:
        sane, rms_dbfs, longest_silence_s, clips_within_6_db; those of `obedience.mean_chart_scores`; band_difference_db
        (generated minus render, mean over the charts), and by kind of clip: `chord_scores` and `beat_fs` (of the charts
        that change chord; on one scale, on which the render has 1), `band_error_db` (mean over the octave bands of the
        absolute mean difference to the renders), `stereo` (means) and `stereo_error` (`stereo_difference` to the
        render, means).
    """
    differences = np.array([chart["band_difference_db"] for chart in charts])
    levels = [chart["sanity"]["rms_dbfs"] for chart in charts]
    mean = obedience.mean_chart_scores(charts)
    changing = [
        chart for chart in charts if chart["changes_chord"] and not np.isnan(chart["chord_generated"])
    ]
    kinds = [kind for kind in (*HEARD, "shuffled") if all(kind in chart["chord_rates"] for chart in charts)]
    rates = {kind: _mean([chart["chord_rates"][kind] for chart in changing]) for kind in kinds}
    scores = {
        kind: obedience.chord_score(rate, mean["chord_rotated"], mean["chord_render"])
        for kind, rate in rates.items()
    }
    beats = {kind: _mean([chart["beat_fs"][kind] for chart in charts]) for kind in kinds}
    bands = {kind: np.array([chart["bands_db"][kind] for chart in charts]) for kind in HEARD}
    return {
        "sane": sum(chart["sanity"]["ok"] for chart in charts),
        "rms_dbfs": [min(levels), max(levels)],
        "longest_silence_s": max(chart["sanity"]["longest_silence_s"] for chart in charts),
        "band_difference_db": differences.mean(0),
        "clips_within_6_db": int((np.abs(differences).max(1) <= 6).sum()),
        **mean,
        "chord_scores": scores,
        "beat_fs": beats,
        "band_error_db": {
            kind: float(np.abs((bands[kind] - bands["held_out"]).mean(0)).mean()) for kind in HEARD
        },
        "stereo": {
            kind: {
                name: _mean([chart["stereo"][kind][name] for chart in charts])
                for name in ("side_to_mid_db", "correlation", "pan_db")
            }
            | {"pan_spread_db": float(np.std([chart["stereo"][kind]["pan_db"] for chart in charts]))}
            for kind in HEARD
        },
        "stereo_error": {kind: _stereo_error(charts, kind) for kind in kinds},
    }


def _stereo_error(charts: Sequence[dict[str, Any]], kind: str) -> dict[str, float]:
    """How far the images of a kind are from those of the renders; shuffled: generated from the next chart's render."""
    renders = [chart["stereo"]["held_out"] for chart in charts]
    if kind == "shuffled":
        kind, renders = "generated", [*renders[1:], renders[0]]
    each = [stereo_difference(chart["stereo"][kind], render) for chart, render in zip(charts, renders)]
    return {name: _mean([one[name] for one in each]) for name in each[0]}


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _rows(run: EvaluationRun, summary: dict[str, Any]) -> None:
    number = len(run.chart_takes)
    low, high = summary["rms_dbfs"]
    run.row(
        f"{number} held-out charts at {run.settings.duration:g} s: sanity",
        "no NaN, no clip, -30..-12 dBFS RMS, no half-second of silence",
        f"{summary['sane']} of {number} pass; RMS {low:.1f}..{high:.1f} dBFS, longest silence "
        f"{summary['longest_silence_s']:.2f} s",
        summary["sane"] == number,
    )
    score = summary["chord_score"]
    run.row(
        f"chord obedience over {summary['chord_charts']} charts that change chord",
        "score >= 0.7, goal 0.9",
        f"{score:.2f} (generated {summary['chord_generated']:.3f}, rotated {summary['chord_rotated']:.3f}, "
        f"render {summary['chord_render']:.3f})",
        score >= 0.7,
    )
    run.row(
        "beat obedience: F within 70 ms",
        ">= 0.9 of the renders' own",
        f"{summary['beat_f']:.3f} (renders {summary['beat_f_render']:.3f}, half a beat off "
        f"{summary['beat_f_offset']:.3f})",
        summary["beat_f"] >= 0.9 * summary["beat_f_render"],
    )
    bands = summary["band_difference_db"]
    worst = int(np.abs(bands).argmax())
    run.row(
        "octave bands to 16 kHz, generated minus render (mean over charts)",
        "within 6 dB",
        f"{bands.min():+.1f}..{bands.max():+.1f} dB, most at {metrics.OCTAVE_CENTRES[worst]:g} Hz; "
        f"every band of {summary['clips_within_6_db']} of {number} clips",
        bool(np.abs(bands).max() <= 6),
    )
    ours, theirs, error = (
        summary["stereo"]["generated"], summary["stereo"]["held_out"], summary["stereo_error"]["generated"]
    )  # fmt: skip
    run.row(
        "stereo image, generated (renders)",
        "-",
        f"side {ours['side_to_mid_db']:.1f} dB below mid ({theirs['side_to_mid_db']:.1f}), correlation "
        f"{ours['correlation']:.2f} ({theirs['correlation']:.2f}), pan {ours['pan_db']:+.1f} dB "
        f"({theirs['pan_db']:+.1f}), spread {ours['pan_spread_db']:.1f} ({theirs['pan_spread_db']:.1f}); by octave, "
        f"to its own render: width {error['side_to_mid_db']:.1f} dB, pan {error['pan_db']:.1f} dB",
        None,
    )


def _table(charts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A line a chart."""

    def show(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.2f}"

    rows = []
    for chart in charts:
        chords = ", ".join(show(chart[f"chord_{name}"]) for name in ("generated", "rotated", "render"))
        rows.append(
            [
                f"{chart['take']}, {chart['genre']}, {chart['beats_per_bar']}/4",
                chart["key"],
                f"{chart['tempo']:.0f}",
                chords,
                f"{show(chart['beat_f'])}, {show(chart['beat_f_render'])}",
                f"{chart['sanity']['rms_dbfs']:.1f}",
            ]
        )
    header = ["chart", "key", "tempo", "chords: generated, rotated, render", "F: generated, render", "RMS"]
    return {"title": "Chart by chart", "header": header, "rows": rows}


def _references(run: EvaluationRun, summary: dict[str, Any]) -> None:
    run.reference("chord obedience", **summary["chord_scores"])
    run.reference("beat F", **summary["beat_fs"])
    run.reference("octave bands, error dB", **summary["band_error_db"])
    width = {kind: error["side_to_mid_db"] for kind, error in summary["stereo_error"].items()}
    run.reference("stereo width by octave, error dB", **width)


def _draw(run: EvaluationRun, clips: Sequence[StoredClip], charts: Sequence[dict[str, Any]]) -> None:
    takes, sheets = run.chart_takes, run.chart_sheets
    seconds = min(run.settings.duration, _SHOWN_SECONDS)
    shown = [
        (
            f"{takes[i].name}, {sheets[i].genre}, {sheets[i].tempo:.0f} bpm",
            clips[i].audio(seconds)[:, : round(seconds * SAMPLE_RATE)],
            takes[i].audio(seconds),
            sheets[i],
        )
        for i in sorted({0, len(takes) // 2, len(takes) - 1})
    ]
    generated, render = (
        np.array([c["bands_db"][kind] for c in charts]) for kind in ("generated", "held_out")
    )
    run.picture(pictures.plot_beside_renders(shown, run.out_dir / "spectrograms.png"))
    run.picture(pictures.plot_bands(generated, render, run.out_dir / "bands.png"))
    run.picture(pictures.plot_obedience(charts, run.out_dir / "obedience.png"))
