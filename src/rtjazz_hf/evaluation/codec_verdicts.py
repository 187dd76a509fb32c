"""What is asked of a codec against what was measured, and the codec report as text."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

from .measures.codec import BAND_NAMES, JUDGES, MEASURES
from .measures.notes import SCORED_ROLES
from .measures.tuning import MOVES, NOTES
from .writing import to_columns, to_markdown_table, to_table, verdicts_to_markdown

STANDARD_LEVELS = 4
GOAL_SNR = 40.0  # dB
# set -> (levels or None for un-quantised, Opus rate whose mel distance is to be beaten, least pitch correlation)
ASKED = {
    "composed": ((None, 32, 0.97), (STANDARD_LEVELS, 16, 0.85), (STANDARD_LEVELS, 24, None)),
    "real": ((None, 16, 0.9), (STANDARD_LEVELS, 8, None)),
}
# levels -> Opus rate whose Zimtohrli score is to be reached, and by how much it may be missed
ASKED_ZIMTOHRLI = ((None, 32, 0.1), (STANDARD_LEVELS, 16, 0.0))
MOST_CENTS = {
    None: {"vibrato": 8.0, "glide": 4.0, "scoop": 3.0, "quarter_tone": 3.0},
    STANDARD_LEVELS: dict.fromkeys(MOVES, 10.0),
}
MOST_PARTIALS = 5.0  # cents, mean of partials 1 to 13 of three notes, un-quantised
MOST_VALLEY_LOSS = 1.0  # dB
LEAST_CONTRAST = 0.95  # pitch correlation of contrast, un-quantised, of composed takes
LEAST_BASS = 0.92  # F1 of bass notes in copies, as a share of that in renders
LEAST_USAGE = 0.95
MOST_DECODE, MOST_ENCODE = 0.03, 0.05  # of real time, whole
MOST_SPLIT = 1e-5
MOST_LATENCY_MS = 20

_HEADS = {  # column heads of the tables, short
    "si_sdr": "SI-SDR",
    "snr": "SNR",
    "mel_distance": "mel",
    "multi_mel_distance": "multi mel",
    "pitch_correlation": "pitch",
    "semitone_correlation": "semitone",
    "onset_sharpness_error": "onset",
    "loudness_error": "loudness",
    "stereo_width_error": "width",
    "zimtohrli": "Zimtohrli",
    "visqol": "ViSQOL",
    "valley_loss": "valleys",
}
_ALL = MEASURES | JUDGES


def verdicts(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of what, asked, measured and ok for the figures asked of the codec; ok is None where nothing is asked."""
    rows: list[dict[str, Any]] = []
    for name, data in report["sets"].items():
        for levels, rate, pitch in ASKED.get(name, ()):
            rows += _against_opus(name, data, levels, rate, pitch)
        rows += _judge_rows(name, data)
    rows += _tuning_rows(report["tuning"])
    rows += _note_rows(report["notes"])
    for name, data in report["sets"].items():
        rows += _codebook_rows(name, data["codebooks"])
        rows += _snr_rows(name, data)
    if len(report["sets"]) > 1:
        rows += _codebook_rows("all of these together", report["codebooks"])
    split = report["splits"]["decode"]
    rows.append(
        _row(
            "decode in random splits versus whole, float32",
            f"<= {MOST_SPLIT:g}",
            f"{split:.1e}",
            split <= MOST_SPLIT,
        )
    )
    latency, ahead = (report["settings"][name] for name in ("latency_ms", "look_ahead_ms"))
    rows.append(
        _row(
            "latency with low_delay; of a whole clip or a stream without it",
            f"< {MOST_LATENCY_MS} ms; -",
            f"{latency:.1f} ms; {latency + ahead:.1f} ms",
            latency < MOST_LATENCY_MS,
        )
    )
    if report.get("speed"):
        rows += speed_verdicts(report["speed"])
    return rows


def speed_verdicts(speed: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of what `rtjazz_hf.benchmark.benchmark_codec` measured."""
    settings = speed["settings"]
    threads = f"{settings['threads']} thread{'s' if settings['threads'] != 1 else ''}"
    where = f"{threads}, {settings['device']}, {settings['dtype']}"
    if settings["load_average"] is not None:
        where += f", load {settings['load_average']:.1f} on {settings['cores']} cores at the start"
    rows = []
    for name, most in (("decode", MOST_DECODE), ("encode", MOST_ENCODE)):
        whole = speed["whole"][name]
        text = f"{whole['real_time_factor']:.4f} (least {whole['least_real_time_factor']:.4f})"
        if "times_faster_than_encodec" in whole:
            other = speed["encodec"][name]["real_time_factor"]
            text += f"; EnCodec 48 kHz {other:.3f}, {whole['times_faster_than_encodec']:.1f} times slower"
        asked = f"under {most:g} of real time"
        rows.append(_row(f"{name} whole; {where}", asked, text, whole["real_time_factor"] < most))
    for size, directions in speed["stream"].items():
        for name, figures in directions.items():
            if not figures["pieces"]:
                continue
            asked = size == "8" and name == "decode"
            rows.append(
                _row(
                    f"{name} streamed, pieces of {size} frame{'s' if size != '1' else ''}",
                    f"P99 < {figures['duration_ms']:.1f} ms" if asked else "-",
                    f"P50 {figures['ms_p50']:.2f}, P95 {figures['ms_p95']:.2f}, P99 {figures['ms_p99']:.2f} ms of "
                    f"{figures['duration_ms']:.1f} ms; {figures['real_time_factor']:.3f} of real time",
                    figures["ms_p99"] < figures["duration_ms"] if asked else None,
                )
            )
    return rows


def to_text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    parts = []
    for name, data in report["sets"].items():
        parts += [
            "",
            _title(name, data, report),
            to_columns(*_measure_cells(data["rows"])),
            _bound_line(data),
        ]
    if report["tuning"]:
        parts += ["", _TUNING_TITLE, to_columns(*_tuning_cells(report["tuning"]))]
    if report["notes"]["rows"]:
        parts += ["", _NOTES_TITLE, to_columns(*_note_cells(report["notes"]))]
    return "\n".join([*parts, "", to_table(report["table"])])


def to_markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown page."""
    settings = ", ".join(f"{key}: {value}" for key, value in report["settings"].items())
    lines = ["# Codec evaluation", "", settings, "", *verdicts_to_markdown(report["table"])]
    for name, data in report["sets"].items():
        lines += [
            "",
            f"## {_title(name, data, report)}",
            "",
            *to_markdown_table(*_measure_cells(data["rows"])),
        ]
        lines += ["", _bound_line(data), "", "Octave bands: error of the energy / SNR, dB.", ""]
        lines += to_markdown_table(*_band_cells(data["rows"]))
        books = data["codebooks"]
        cells = [
            (str(level), f"{100 * usage:.1f}%", f"{perplexity:.0f}")
            for level, (usage, perplexity) in enumerate(zip(books["usage"], books["perplexity"]), start=1)
        ]
        lines += ["", f"Codebooks of {books['entries']} entries over {books['frames']} frames.", ""]
        lines += to_markdown_table(("level", "usage", "perplexity"), cells)
    if report["tuning"]:
        lines += ["", f"## {_TUNING_TITLE}", "", *to_markdown_table(*_tuning_cells(report["tuning"]))]
    if report["notes"]["rows"]:
        lines += ["", f"## {_NOTES_TITLE}", "", *to_markdown_table(*_note_cells(report["notes"]))]
    for name in report["pictures"]:
        lines += ["", f"![{Path(name).stem}]({name})"]
    units = "; ".join(
        f"{_HEADS[key]}: {title}{f', {unit}' if unit else ''}"
        for key, (title, _, unit, _) in _ALL.items()
    )
    lines += ["", f"Columns: {units}; bound: SNR in dB that reverse water-filling allows at the row's rate."]
    if passed_over := report.get("passed_over"):
        lines += ["", f"Passed over, {len(passed_over)}:", "", *(f"- {reason}" for reason in passed_over)]
    lines += ["", f"Measured in {report['wall_seconds']:.0f} s."]
    return "\n".join(lines) + "\n"


def _row(what: str, asked: str, measured: str, ok: bool | None) -> dict[str, Any]:
    return {"what": what, "asked": asked, "measured": measured, "ok": ok}


def _find(data: dict[str, Any], kind: str, setting: float | None) -> dict[str, Any] | None:
    return next((row for row in data["rows"] if (row["kind"], row["setting"]) == (kind, setting)), None)


def _against_opus(
    name: str, data: dict[str, Any], levels: int | None, rate: int, pitch: float | None
) -> list[dict[str, Any]]:
    ours = _find(data, "latents" if levels is None else "codes", levels)
    other = _find(data, "opus", rate)
    kind = "un-quantised latents" if levels is None else f"{levels} levels"
    what = f"{name}, {kind}: mel distance"
    goal = (name, levels, rate) == ("composed", STANDARD_LEVELS, 24)
    asked = f"below Opus at {rate} kbit/s{' (goal)' if goal else ''}"
    if ours is None or other is None:
        missing = (
            f"the codec has no {levels} levels" if ours is None else f"Opus at {rate} kbit/s was not run"
        )
        return [_row(what, asked, f"not measured: {missing}", None)]
    rows = [
        _row(
            what,
            asked,
            f"{ours['mel_distance']:.2f} dB; Opus {other['mel_distance']:.2f} dB at {other['bitrate'] / 1000:.1f} "
            f"kbit/s; SI-SDR {ours['si_sdr']:.1f} and {other['si_sdr']:.1f} dB",
            ours["mel_distance"] < other["mel_distance"],
        )
    ]
    if pitch is not None:
        for key in ("pitch_correlation", "semitone_correlation"):
            value = ours[key]
            rows.append(
                _row(f"{name}, {kind}: {MEASURES[key][0]}", f">= {pitch:g}", f"{value:.3f}", value >= pitch)
            )
    return rows


def _judge_rows(name: str, data: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for levels, rate, less in ASKED_ZIMTOHRLI:
        ours, other = _find(data, "latents" if levels is None else "codes", levels), _find(data, "opus", rate)
        if ours is None or other is None or math.isnan(ours["zimtohrli"] + other["zimtohrli"]):
            continue
        kind = "un-quantised latents" if levels is None else f"{levels} levels"
        asked = f">= Opus at {rate} kbit/s{f' less {less:g}' if less else ''}"
        measured = (
            f"{ours['zimtohrli']:.2f}; Opus {other['zimtohrli']:.2f}; ViSQOL {ours['visqol']:.2f} and "
            f"{other['visqol']:.2f}"
        )
        ok = ours["zimtohrli"] >= other["zimtohrli"] - less
        rows.append(_row(f"{name}, {kind}: Zimtohrli", asked, measured, ok))
    free = _find(data, "latents", None)
    if name == "composed":
        contrast = free["pitch_correlation"]
        what = f"{name}, un-quantised latents: {MEASURES['pitch_correlation'][0]}"
        rows.append(_row(what, f">= {LEAST_CONTRAST:g}", f"{contrast:.3f}", contrast >= LEAST_CONTRAST))
    loss = free["valley_loss"]
    if not math.isnan(loss):
        what = f"{name}, un-quantised latents: valleys between partials filled"
        rows.append(_row(what, f"<= {MOST_VALLEY_LOSS:g} dB", f"{loss:.2f} dB", loss <= MOST_VALLEY_LOSS))
    return rows


def _tuning_rows(tuning: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for levels, most in MOST_CENTS.items():
        kind = ("latents", None) if levels is None else ("codes", levels)
        found = next((row for row in tuning if (row["kind"], row["setting"]) == kind), None)
        if found is None:
            continue
        for name, limit in most.items():
            what = f"{found['name']}: {name.replace('_', ' ')}, median error"
            rows.append(_row(what, f"<= {limit:g} cents", f"{found[name]:.1f} cents", found[name] <= limit))
        if levels is None:
            values = [found[f"partials_{note}"] for note in NOTES]
            mean = sum(values) / len(values)
            told = ", ".join(f"{note} {value:.1f}" for note, value in zip(NOTES, values))
            what = f"{found['name']}: partials 1 to 13, mean error"
            rows.append(_row(what, f"<= {MOST_PARTIALS:g} cents", f"{mean:.1f} cents ({told})", mean <= MOST_PARTIALS))
    return rows


def _note_rows(notes: dict[str, Any]) -> list[dict[str, Any]]:
    if "skipped" in notes:
        return [_row("notes that are heard", "-", f"not measured: {notes['skipped']}", None)]
    if not notes["rows"]:
        return []
    renders, *copies = notes["rows"]
    rows = []
    for copy in copies:
        for role in SCORED_ROLES:
            key = f"{role}_f1"
            if key not in renders:
                continue
            share = copy[key] / max(renders[key], 1e-9)
            asked = role == "bass" and copy["kind"] != "low_delay"
            rows.append(
                _row(
                    f"{copy['name']}: {role} notes heard in {notes['takes']} takes, F1 as a share of the renders'",
                    f">= {LEAST_BASS:g}" if asked else "-",
                    f"{share:.2f} ({copy[key]:.3f}; renders {renders[key]:.3f})",
                    share >= LEAST_BASS if asked else None,
                )
            )
    return rows


_NOTES_TITLE = "Notes that an outside transcriber hears: recall / precision / F1"


def _note_cells(notes: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    parts = ("recall", "precision", "f1")
    return ["", *SCORED_ROLES], [
        [row["name"], *(" / ".join(_number(row.get(f"{role}_{part}"), 3) for part in parts) for role in SCORED_ROLES)]
        for row in notes["rows"]
    ]


_TUNING_TITLE = "Tones that move: median error in cents; partials 1 to 13: mean error"


def _tuning_cells(tuning: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    keys = [*MOVES, *(f"partials_{note}" for note in NOTES)]
    header = ["", *(key.replace("_", " ") for key in keys)]
    return header, [[row["name"], *(_number(row[key], 1) for key in keys)] for row in tuning]


def _codebook_rows(name: str, books: dict[str, Any]) -> list[dict[str, Any]]:
    usage = ", ".join(f"{100 * share:.1f}%" for share in books["usage"])
    perplexity = ", ".join(f"{value:.0f}" for value in books["perplexity"])
    what = f"{name}, {len(books['usage'])} codebooks of {books['entries']} entries, {books['frames']} frames: usage"
    asked = f">= {100 * LEAST_USAGE:g}% at every level"
    return [_row(what, asked, f"{usage}; perplexity {perplexity}", min(books["usage"]) >= LEAST_USAGE)]


def _snr_rows(name: str, data: dict[str, Any]) -> list[dict[str, Any]]:
    codes = sorted((row for row in data["rows"] if row["kind"] == "codes"), key=lambda row: row["setting"])
    steps = ", ".join(
        f"{row['setting']:g}: {row['snr']:.2f} ({row['bitrate'] / 1000:.1f} kbit/s, bound {row['snr_bound']:.1f})"
        for row in codes
    )
    rising = all(low["snr"] < high["snr"] for low, high in pairwise(codes))
    rows = [_row(f"{name}, SNR in dB by levels", "monotone, next to the bound", steps, rising)]
    reached = [
        _reaches("codes", codes),
        _reaches("un-quantised latents", [_find(data, "latents", None)]),
        _reaches(
            "Opus", sorted((r for r in data["rows"] if r["kind"] == "opus"), key=lambda row: row["bitrate"])
        ),
        f"bound: {_bound_rate(data)}",
    ]
    rows.append(_row(f"{name}, rate of {GOAL_SNR:g} dB SNR", "said", "; ".join(filter(None, reached)), None))
    return rows


def _reaches(name: str, rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    for row in rows:
        if row["snr"] >= GOAL_SNR:
            rate = "" if row["kind"] == "latents" else f" at {row['bitrate'] / 1000:.1f} kbit/s"
            return f"{name}: reached{rate} ({row['snr']:.1f} dB)"
    best = max(rows, key=lambda row: row["snr"])
    rate = "" if best["kind"] == "latents" else f" at {best['bitrate'] / 1000:.1f} kbit/s"
    return f"{name}: never, {best['snr']:.1f} dB at best{rate}"


def _bound_rate(data: dict[str, Any]) -> str:
    rates = [
        rate / 1000 for rate in data["bound"]["rate_of_40_db"] if rate is not None and math.isfinite(rate)
    ]
    if not rates:
        return "beyond the curve"
    return f"{sum(rates) / len(rates):.0f} kbit/s ({min(rates):.0f} to {max(rates):.0f} clip by clip)"


def _bound_line(data: dict[str, Any]) -> str:
    return f"Reverse water-filling: {GOAL_SNR:g} dB SNR needs {_bound_rate(data)}."


def _title(name: str, data: dict[str, Any], report: dict[str, Any]) -> str:
    return f"{name}: means over {len(data['clips'])} held-out clips of {report['settings']['seconds']:g} s"


def _measure_cells(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = ["", "kbit/s", *_HEADS.values(), "bound"]
    cells = []
    for row in rows:
        rate = row["bitrate"]
        cells.append(
            [
                row["name"],
                "-" if rate is None or math.isnan(rate) else f"{rate / 1000:.2f}",
                *(_number(row[key], 2 if _ALL[key][2] else 3) for key in _HEADS),
                _number(row["snr_bound"], 1),
            ]
        )
    return header, cells


def _band_cells(rows: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    header = ["", *(f"{band} Hz" for band in BAND_NAMES)]
    return header, [
        [row["name"], *(f"{_number(row[f'band_error_{band}'], 1)} / {_number(row[f'band_snr_{band}'], 1)}"
                        for band in BAND_NAMES)]
        for row in rows
    ]  # fmt: skip


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"
