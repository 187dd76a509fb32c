"""What was measured, for people: tables for the terminal and a Markdown page, and what was asked beside it."""

from __future__ import annotations

from typing import Any

from rtjazz_hf.evaluation.writing import to_columns, to_markdown_table, verdicts_to_markdown

from .hardware import hardware_line
from .settings import ENDURANCE_BLOCK, MAIN_BLOCK

ASKED_CORES = 2  # what the CPU's targets are stated for
MUSICGEN = "musicgen-small"

Rows = list[tuple[str, ...]]
STREAM_HEADER = ("model", "dtype", "block", "steps", "guidance", "variant", "RTF", "P50", "P95", "P99", "of ms",
                 "blocks", "under-runs", "memory")  # fmt: skip
TRAIN_HEADER = ("part", "arithmetic", "parameters", "batch", "step, s", "tokens/s", "x real time", "GFLOP/s",
                "kept a crop", "memory", "config's steps here")  # fmt: skip
BESIDE_HEADER = ("model", "dtype", "block", "busy processes", "threads", "blocks", "P50", "P95", "P99", "of ms",
                 "under-runs", "longest gap", "memory")  # fmt: skip
RECIPE_HEADER = (
    "recipe",
    "steps",
    "batch",
    "hours at 30% of peak",
    "at 10%",
    "asked",
    "memory a GPU",
    "fits",
)
PEER_HEADER = ("peer", "dtype", "parameters", "RTF", "memory", "note")


def streams_of(report: dict[str, Any], kind: str = "stream") -> list[dict[str, Any]]:
    """Measured cases of a kind."""
    return [each for each in report["cases"] if each["case"]["kind"] == kind and "failed" not in each]


def tables(report: dict[str, Any]) -> list[tuple[str, tuple[str, ...], Rows]]:
    """Title, header and rows of every table that has rows."""
    found = [
        ("Streaming, all included", STREAM_HEADER, _stream_rows(report)),
        ("Start and cache", ("model", "dtype", "first audio", "first of the process", "cached block, 10 s",
                             "uncached", "times faster"), _start_rows(report)),
        ("Peers", PEER_HEADER, _peer_rows(report)),
        ("In real time", ("model", "dtype", "block", "minutes", "blocks", "P50", "P99", "max", "of ms", "under-runs",
                          "memory"), _endurance_rows(report)),
        ("Beside busy processes, in real time", BESIDE_HEADER, _beside_rows(report)),
        ("Where a block's time goes", ("model", "part", "ms a block", "share"), _profile_rows(report)),
        ("Training, measured here", TRAIN_HEADER, _train_rows(report)),
        ("Recipes, computed from counted FLOPs and not run", RECIPE_HEADER, _recipe_rows(report)),
        ("Not measured", ("case", "why"), [(each["label"], each["failed"]) for each in report["cases"]
                                           if "failed" in each]),
    ]  # fmt: skip
    return [table for table in found if table[2]]


def _stream_rows(report: dict[str, Any]) -> Rows:
    rows = []
    for each in streams_of(report):
        case = each["case"]
        for steps, figures in each["steps"].items():
            rows.append(
                (
                    case["name"], case["dtype"], str(case["block_frames"]),
                    steps + ("*" if int(steps) == each["shipped_steps"] else ""),
                    f"{each['guidance_scale']:g}", _variant(case), f"{figures['real_time_factor']:.3f}",
                    *(f"{figures[name]:.0f}" for name in ("ms_p50", "ms_p95", "ms_p99", "duration_ms")),
                    str(figures["blocks"]), str(figures["under_runs"]), _memory(each),
                )
            )  # fmt: skip
    return rows


def _start_rows(report: dict[str, Any]) -> Rows:
    return [
        (
            each["case"]["name"], each["case"]["dtype"], f"{each['first_audio_ms']['median']:.0f} ms",
            f"{each['first_audio_ms']['first']:.0f} ms", f"{each['cache']['cached_ms']:.0f} ms",
            f"{each['cache']['uncached_ms']:.0f} ms", f"{each['cache']['times_faster']:.1f}",
        )
        for each in streams_of(report)
        if "cache" in each
    ]  # fmt: skip


def _peer_rows(report: dict[str, Any]) -> Rows:
    rows = []
    for each in (*streams_of(report, "musicgen"), *streams_of(report, "stable_audio")):
        note = each.get("note") or f"{each['audio_seconds']:.1f} s, guidance {each['guidance_scale']:g}"
        rows.append((each["case"]["name"], each["case"]["dtype"], f"{each['parameters'] / 1e6:.0f}M",
                     f"{each['real_time_factor']:.2f}", _memory(each), note))  # fmt: skip
    for each in streams_of(report, "codec"):
        for way, figures in each["whole"].items():
            peer, ours = each["encodec"][way]["real_time_factor"], figures["real_time_factor"]
            note = f"{way}s; our codec {ours:.4f}, {peer / ours:.1f} times faster"
            rows.append(("encodec 48 kHz", "float32", f"{each['encodec']['parameters'] / 1e6:.0f}M", f"{peer:.4f}", "",
                         note))  # fmt: skip
    return rows


def _endurance_rows(report: dict[str, Any]) -> Rows:
    return [
        (
            each["case"]["name"] + ", swapping adapters" * bool(each["case"]["swap"]), each["case"]["dtype"],
            str(each["case"]["block_frames"]), f"{each['minutes']:g}",
            str(each["blocks"]),
            *(f"{each[name]:.0f}" for name in ("ms_p50", "ms_p99", "ms_max", "duration_ms")),
            str(each["under_runs"]), _memory(each),
        )
        for each in streams_of(report, "endurance")
    ]  # fmt: skip


def _beside_rows(report: dict[str, Any]) -> Rows:
    return [
        (
            each["case"]["name"], each["case"]["dtype"], str(each["case"]["block_frames"]), str(each["case"]["beside"]),
            f"auto: {each['threads']}" if each["case"]["threads"] is None else str(each["case"]["threads"]),
            str(each["blocks"]), *(f"{each[name]:.0f}" for name in ("ms_p50", "ms_p95", "ms_p99", "duration_ms")),
            str(each["under_runs"]), f"{each['ms_longest_gap']:.0f} ms", _memory(each),
        )
        for each in streams_of(report, "beside")
    ]  # fmt: skip


def _profile_rows(report: dict[str, Any]) -> Rows:
    return [
        (f"{each['case']['name']} {each['case']['dtype']}", part["name"], f"{part['ms']:.2f}",
         f"{100 * part['share']:.1f}%")
        for each in streams_of(report, "profile")
        for part in each["parts"]
    ]  # fmt: skip


def _train_rows(report: dict[str, Any]) -> Rows:
    return [
        (
            each["case"]["name"],
            {"no": "float32"}.get(each["mixed_precision"], each["mixed_precision"])
            + ", checkpointed" * each["checkpointing"],
            f"{each['trained_parameters'] / 1e6:.2f}M of {each['parameters'] / 1e6:.1f}M",
            f"{each['batch_size']} x {each['crop_frames']} frames", f"{each['step_seconds']:.2f}",
            f"{each['tokens_per_second']:.0f}", f"{each['audio_seconds_per_second']:.2f}",
            f"{each['flops_per_second'] / 1e9:.1f}", f"{each['activation_bytes_per_sample'] / 1e9:.2f} GB",
            _memory(each), f"{each['recipe_hours']:.1f} h",
        )
        for each in streams_of(report, "train")
    ]  # fmt: skip


def _recipe_rows(report: dict[str, Any]) -> Rows:
    return [
        (
            each["recipe"], str(each["steps"]), each["batch"], *(f"{hours:.1f}" for hours in each["hours"].values()),
            "-" if each["asked_hours"] is None else f"{each['asked_hours']:g}", f"{each['memory_gb']:.1f} GB",
            "yes" if each["fits"] else "no",
        )
        for each in report.get("recipes", ())
    ]  # fmt: skip


def _variant(case: dict[str, Any]) -> str:
    parts = [case["attention"]]
    if case["threads"] is not None:
        parts.append(f"{case['threads']} thread{'s' * (case['threads'] > 1)}")
    if case["compile"]:
        parts.append("compiled")
    return ", ".join(parts)


def _memory(each: dict[str, Any]) -> str:
    peaks = each.get("peak_memory_mb")
    return (
        " + ".join(f"{value:.0f} MB{' GPU' * (name == 'gpu')}" for name, value in peaks.items())
        if peaks
        else "-"
    )


def ratios(report: dict[str, Any]) -> dict[str, dict[str, float]]:
    """How many times faster than MusicGen-small each model is: shipped steps, main block, best type of each."""
    peers = [each["real_time_factor"] for each in streams_of(report, "musicgen")]
    if not peers:
        return {}
    found: dict[str, dict[str, float]] = {}
    for each in streams_of(report):
        shipped = each["steps"].get(str(each["shipped_steps"]))
        if shipped is None or each["case"]["group"] != "comparison":
            continue
        factor = shipped["real_time_factor"]
        best = found.setdefault(each["case"]["name"], {"real_time_factor": factor})
        best["real_time_factor"] = min(best["real_time_factor"], factor)
    for best in found.values():
        best["musicgen_small"] = min(peers)
        best["times_faster"] = min(peers) / best["real_time_factor"]
    return found


def verdicts(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of what, asked, measured, ok; `ok` is `None` where the target is stated for another machine."""
    hardware = report["hardware"]
    on_gpu = str(hardware["device"]).startswith("cuda")
    comparable = on_gpu or hardware["threads"] == ASKED_CORES
    rows: list[dict[str, Any]] = []

    def row(what: str, asked: str, measured: str, ok: bool | None) -> None:
        rows.append({"what": what, "asked": asked, "measured": measured, "ok": ok})

    for name, limits in (("mini", {MAIN_BLOCK: 0.20, ENDURANCE_BLOCK: 0.5}), ("base", {MAIN_BLOCK: 0.6})):
        if on_gpu:
            limits = {MAIN_BLOCK: 0.05} if name == "base" else {}
        for frames, limit in limits.items():
            best = _best_shipped(report, name, frames)
            if best is None:
                continue
            factor, dtype, each = best
            where = "GPU" if on_gpu else f"{hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"
            row(f"{name}, {frames}-frame blocks, shipped steps, {where}: real-time factor", f"<= {limit:g}",
                f"{factor:.3f} ({dtype})", factor <= limit if comparable else None)  # fmt: skip
            start = each.get("first_audio_ms")
            limit_ms = (50 if on_gpu else None) if name == "base" else 150
            if start and limit_ms:
                row(f"{name}: time to first audio, models loaded, first block of {start['block_frames']} frames",
                    f"<= {limit_ms} ms", f"{start['median']:.0f} ms",
                    start["median"] <= limit_ms if comparable else None)  # fmt: skip
    for each in streams_of(report):
        case = each["case"]
        if "cache" in each:
            gain = each["cache"]["times_faster"]
            row(f"{case['name']} {case['dtype']}: cache against no cache, 10 s window, a block", ">= 5 times faster",
                f"{gain:.1f}", gain >= 5)  # fmt: skip
            peaks = each.get("peak_memory_mb", {})
            peak, limit = (peaks.get("gpu"), 3000) if on_gpu else (peaks.get("host"), 2000)
            if case["name"] == "base" and case["dtype"] == "bfloat16" and peak:
                row(
                    "base bfloat16: peak memory",
                    f"< {limit / 1000:g} GB",
                    f"{peak / 1000:.2f} GB",
                    peak < limit,
                )
    for name, ratio in ratios(report).items():
        if limit := {"mini": 20, "base": 4}.get(name):
            row(f"{name}: times faster than MusicGen-small, best type of each", f">= {limit}",
                f"{ratio['times_faster']:.1f}", ratio["times_faster"] >= limit)  # fmt: skip
    for each in streams_of(report, "endurance"):
        if each["case"]["swap"]:
            for other in streams_of(report, "endurance"):
                if not other["case"]["swap"] and other["case"] == {
                    **each["case"],
                    "swap": other["case"]["swap"],
                }:
                    rows += _swap_verdicts(each, other)
            continue
        ok = each["ms_p99"] < each["duration_ms"]
        row(f"{each['case']['name']}, {each['case']['block_frames']}-frame blocks, {each['minutes']:g} minutes: P99",
            f"< {each['duration_ms']:.0f} ms", f"{each['ms_p99']:.0f} ms, {each['under_runs']} under-runs of "
            f"{each['blocks']}", ok if comparable else None)  # fmt: skip
    rows += [_beside_verdict(each) for each in streams_of(report, "beside") if each["case"]["threads"] is None]
    return rows


def _beside_verdict(each: dict[str, Any]) -> dict[str, Any]:
    """Of a session that chooses its threads: no gaps beside two busy processes, half of its time left beside one."""
    case, half = each["case"], each["duration_ms"] / 2
    asked = {0: "no under-runs", 1: f"no under-runs, P99 <= {half:.0f} ms", 2: "no under-runs"}.get(case["beside"], "-")
    good = not each["under_runs"] and (case["beside"] != 1 or each["ms_p99"] <= half)
    return {
        "what": f"{case['name']}, {case['block_frames']}-frame blocks, beside {case['beside']} busy "
        f"process{'es' * (case['beside'] != 1)}",
        "asked": asked, "measured": f"{each['under_runs']} under-runs of {each['blocks']}, P99 {each['ms_p99']:.0f} ms",
        "ok": None if asked == "-" else good,
    }  # fmt: skip


def _swap_verdicts(each: dict[str, Any], plain: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a run that swapped adapters, beside the one before it that did not."""
    what = f"{each['case']['name']}, {each['swaps']} swaps of adapters in {each['minutes']:g} minutes"
    limit = plain["under_runs"]
    return [
        {"what": f"{what}: under-runs", "asked": f"<= {limit}, as without", "ok": each["under_runs"] <= limit,
         "measured": f"{each['under_runs']} of {each['blocks']}; P99 {each['ms_p99']:.0f} ms, {plain['ms_p99']:.0f} ms "
                     "without"},
        {"what": f"{what}: largest sample jump at a join", "asked": "<= the 99.99th percentile of all",
         "measured": f"{each['joins']['ratio']:.2f} times it", "ok": each["joins"]["ratio"] <= 1},
    ]  # fmt: skip


def _best_shipped(report: dict[str, Any], name: str, frames: int) -> tuple[float, str, dict[str, Any]] | None:
    """Real-time factor, type and case of a model's fastest type, as it ships."""
    found = []
    for each in streams_of(report):
        case = each["case"]
        shipped = each["steps"].get(str(each["shipped_steps"]))
        plain = case["attention"] == "sdpa" and not case["compile"]
        if case["name"] == name and case["block_frames"] == frames and plain and shipped:
            found.append((shipped["real_time_factor"], case["dtype"], each))
    if not found:
        return None
    factor, dtype, best = min(found, key=lambda each: each[0])
    if "first_audio_ms" not in best:  # it is measured in the first type alone
        best = next((each for _, _, each in found if "first_audio_ms" in each), best)
    return factor, dtype, best


def to_text(report: dict[str, Any]) -> str:
    """All of it for a terminal."""
    parts = [hardware_line(report["hardware"])]
    for title, header, rows in tables(report):
        parts += ["", title, to_columns(header, rows)]
    marks = {True: "ok", False: "MISSED", None: "-"}
    if report["table"]:
        rows = [(row["what"], row["asked"], row["measured"], marks[row["ok"]]) for row in report["table"]]
        parts += ["", to_columns(("what", "asked", "measured", ""), rows)]
    return "\n".join([*parts, "", _footer(report)])


def to_markdown(report: dict[str, Any]) -> str:
    """All of it as a Markdown page."""
    lines = ["# Benchmark", "", hardware_line(report["hardware"]), ""]
    if report["table"]:
        lines += [*verdicts_to_markdown(report["table"]), ""]
    for title, header, rows in tables(report):
        lines += [f"## {title}", "", *to_markdown_table(header, rows), ""]
    lines += [line for name in report.get("pictures", ()) for line in (f"![{name}]({name})", "")]
    return "\n".join([*lines, _footer(report)]) + "\n"


def _footer(report: dict[str, Any]) -> str:
    if "recipes" in report:
        return (
            "Random weights and data in the real sizes; EMA, clipping and AdamW included, reading data not. Recipes: "
            "batch is crops a GPU x accumulation x GPUs; what GPUs wait for each other is not counted; memory is "
            f"states and what the backward pass keeps, without workspaces. Measured in {report['wall_seconds']:.0f} s."
        )
    return (
        "RTF: real-time factor, time to make over time it plays. Percentiles are of a block, in ms. *: as shipped. "
        "Peers and base have random weights, which cost what trained ones do. "
        f"Measured in {report['wall_seconds']:.0f} s."
    )
