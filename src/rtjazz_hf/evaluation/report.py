"""One report for every model: `evaluate` measures, prints a table, and writes JSON, Markdown, pictures and
sound."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .clip_store import ClipStore, clip_key
from .listening_test import KEY_NAME
from .measures.embeddings import ClapEmbedder
from .parts import DEFAULT_PARTS, PART_FUNCTIONS, PARTS
from .pictures import plot_references
from .run import EvaluationRun, Settings, take_identity
from .takes import HeldOutTake, load_held_out
from .writing import to_markdown, to_plain, to_table, write_text

if TYPE_CHECKING:
    from rtjazz_hf import RealTimeJazzPipeline
    from rtjazz_hf.corpus.dataset import TakeRecord

REPORT = "report.json"
SUMMARY_PICTURE = "summary.png"


def evaluate(
    pipe: RealTimeJazzPipeline,
    takes: str | os.PathLike | Iterable[Any] | None,
    out_dir: str | os.PathLike,
    *,
    only: Iterable[str] | None = None,
    reference_pipe: RealTimeJazzPipeline | None = None,
    clap: str | os.PathLike | None = None,
    listening_dir: str | os.PathLike | None = None,
    json_path: str | os.PathLike | None = None,
    progress: bool = True,
    save_audio: bool = True,
    fresh: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Measure a pipeline on held-out takes.

    What is played is kept in `out_dir`/clips and played again only for another model or other settings, so parts may
    be measured in calls of their own; each call adds to the report of the calls before it, if model and settings are
    the same.

    Args:
        takes: a folder of `training/prepare_corpus.py` (its test split is used), records of one, or None to
            compose and render new takes.
        out_dir: folder for report.json, report.md, pictures and (with `save_audio`) clips/*.flac; made if
        missing.
        only: some of `PARTS`; all but bends, grooves, hour, steps and listening by default.
        reference_pipe: of the part "steps": what 16 steps are played by, a distilled model's teacher for instance.
        clap: a CLAP model (folder or Hub id) by which the part "similarity" is measured too.
        listening_dir: of the part "listening": where the listening test goes; out_dir/listening by default.
        json_path: a further place for the JSON. progress: tell on stderr what is done, and print the table
        there.
        fresh: play everything again.
        num_takes: held-out takes for the codec, and charts to generate (40). duration: seconds of each (30).
        long_duration: seconds of the clips that are looked at for drift (120). speed_duration: seconds streamed (20).
        shuffled_takes: clips played from another take's chart, for FAD (10). mute_takes, mute_seconds: charts played
            again without a player (20), and seconds of each, and of the clips that follow (15). seed_takes, seeds:
            charts played with several seeds (5), and how many (4). train_takes: training takes, of a corpus folder,
            that clips are held against (1000).
        note_takes: of the part "notes": charts played again without who leads (8). tunes, themes: of the same: melodies
            that are brought (10, at most 10), charts in which the head is looked for again (10, at most 10).
        groove_takes, groove_seconds: charts of each groove in the part "grooves" (3), and seconds of each (20).
        hour_seconds: of the part "hour" (3600).
        step_takes: charts of the part "steps" (20). live_sessions, live_seconds: of the part "live": sessions of every
            change (4, at most 4), and seconds after it (6).
        listening_takes, listening_seconds: charts of the listening test (8), and seconds of each clip (12).
        steps, guidance_scale: of generation; the pipeline's own by default.
        seed: of everything (0).

    Returns:
        {"table": rows of part, what, asked, measured, ok; one entry a part with every figure; "references": measure ->
        kind of clip -> value; "settings"}, as in report.json.

    Raises:
        ValueError: for an unknown part, no takes, or lengths that make no sense. FileExistsError: there is a listening
            test already where one should go.
    """
    parts = list(DEFAULT_PARTS) if only is None else [only] if isinstance(only, str) else list(only)
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        raise ValueError(f"only names {unknown or 'nothing'}; allowed are {', '.join(PARTS)}.")
    parts = [part for part in PARTS if part in parts]
    chosen = _check(Settings(**settings))
    out_dir = Path(out_dir)
    listening_dir = out_dir / "listening" if listening_dir is None else Path(listening_dir)
    if "listening" in parts and (listening_dir / KEY_NAME).exists():
        raise FileExistsError(f"'{listening_dir}' holds a listening test already; choose another folder.")
    out_dir.mkdir(parents=True, exist_ok=True)

    def say(text: str) -> None:
        if progress:
            print(text, file=sys.stderr, flush=True)

    embedder = None if clap is None else ClapEmbedder(clap, pipe.device)
    held_out, train = _takes(takes, parts, chosen)
    with _clips_folder(out_dir, save_audio) as folder, _quiet(pipe), _quiet(reference_pipe):
        run = EvaluationRun(
            pipe, held_out, out_dir, chosen, ClipStore(folder, fresh), say, reference_pipe, train, embedder,
            listening_dir,
        )  # fmt: skip
        described = _describe(run)
        earlier = _earlier(out_dir / REPORT, described)
        found: dict[str, Any] = {}
        drawn: dict[str, Any] = {}  # the references of the picture that is there
        for part in parts:
            say(f"{part} ...")
            run.part, begun = part, time.perf_counter()
            found[part] = PART_FUNCTIONS[part](run)
            found[part]["wall_seconds"] = round(time.perf_counter() - begun, 1)
            say(f"  {found[part]['wall_seconds']} s")
            report = _merge(earlier, described, found, run)
            if report["references"] != drawn:  # most parts have none of their own
                drawn = report["references"]
                plot_references(drawn, out_dir / SUMMARY_PICTURE)
            _write(report, out_dir)  # after each: what fails or is stopped later costs nothing of it
    if json_path is not None:
        write_text(Path(json_path), json.dumps(report, indent=2, allow_nan=False) + "\n")
    say(to_table([row for row in report["table"] if row["part"] in parts]))
    return report


def _write(report: dict[str, Any], out_dir: Path) -> None:
    write_text(out_dir / REPORT, json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_text(out_dir / "report.md", to_markdown(report))


def _takes(
    takes: str | os.PathLike | Iterable[Any] | None, parts: list[str], settings: Settings
) -> tuple[list[HeldOutTake], list[TakeRecord]]:
    """Held-out takes, and the training takes beside them; none where no part asks for any."""
    if not set(parts) - {"bends", "grooves", "hour", "speed", "live"}:
        return [], []
    # FAD wants others beside those whose charts are played
    num = settings.num_takes * (2 if takes is None and {"similarity", "steps"} & set(parts) else 1)
    held_out = load_held_out(takes, num, settings.seed)
    train: list[TakeRecord] = []
    if "diversity" in parts and isinstance(takes, (str, os.PathLike)):
        from rtjazz_hf.corpus.dataset import load_takes

        train = load_takes(takes, split="train")
    return held_out, train


def _check(settings: Settings) -> Settings:
    lengths = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in ("steps", "guidance_scale", "seed")
    }
    optional = {name: lengths.pop(name) for name in ("note_takes", "tunes", "themes")}
    wrong = min(lengths.values()) <= 0 or min(optional.values()) < 0
    if wrong or settings.long_duration < 2 or settings.live_sessions > 4:
        told = ", ".join(f"{name} {value}" for name, value in (lengths | optional).items())
        raise ValueError(
            f"{told}: give at least one take and positive lengths (long_duration 2 s or more, live_sessions at most 4)."
        )
    return settings


def _describe(run: EvaluationRun) -> dict[str, Any]:
    """What two calls must have in common to be one report."""
    defaults = run.pipe.generation_defaults
    steps, guidance = run.settings.steps, run.settings.guidance_scale
    reference = None if run.reference_pipe is None else str(run.reference_pipe.config.get("_name_or_path"))
    return to_plain(
        {
            "model": run.fingerprint,
            "takes": clip_key([take_identity(take) for take in run.chart_takes])[:8] if run.takes else None,
            **dataclasses.asdict(run.settings),
            "steps": defaults["num_inference_steps"] if steps is None else steps,
            "guidance_scale": defaults["guidance_scale"] if guidance is None else guidance,
            "block_frames": defaults["block_frames"],
            "window_frames": defaults["window_frames"],
            **({} if reference is None else {"reference": reference}),
            "torch": torch.__version__,
        }
    )


def _earlier(path: Path, described: dict[str, Any]) -> dict[str, Any]:
    """What an earlier call found about the same model with the same settings; nothing where there is none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        settings = report["settings"]
        same = all(
            settings.get(key) == described[key] for key in described if key not in ("reference", "takes")
        )
        # a part that needs no takes knows of none
        same = same and (
            None in (settings["takes"], described["takes"]) or settings["takes"] == described["takes"]
        )
        return report if same else {}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}


def _merge(
    earlier: dict[str, Any],
    described: dict[str, Any],
    found: dict[str, Any],
    run: EvaluationRun,
) -> dict[str, Any]:
    """The report of the parts of this call, and of the others as an earlier one found them; in JSON's types."""
    kept = [part for part in PARTS if part in earlier and part not in found]
    parts = [part for part in PARTS if part in found or part in kept]
    rows = [row for row in earlier.get("table", []) if row["part"] in kept] + run.rows
    pictures = {part: earlier["pictures_by_part"].get(part, []) for part in kept} | run.pictures
    references = {part: earlier["references_by_part"].get(part, {}) for part in kept} | run.references
    merged: dict[str, dict[str, float]] = {}
    for part in parts:
        for measure, values in references.get(part, {}).items():
            merged.setdefault(measure, {}).update(values)
    settings = {
        "parts": " ".join(parts),
        **described,
        "takes": described["takes"] or earlier.get("settings", {}).get("takes"),
        "threads": torch.get_num_threads(),
    }
    summary = [SUMMARY_PICTURE] if merged else []
    return to_plain(
        {
            "settings": settings,
            **{part: found.get(part) or earlier[part] for part in parts},
            "table": sorted(rows, key=lambda row: PARTS.index(row["part"])),
            "references": merged,
            "references_by_part": references,
            "pictures": [*(name for part in parts for name in pictures.get(part, [])), *summary],
            "pictures_by_part": pictures,
            "wall_seconds": round(
                sum((found.get(part) or earlier[part])["wall_seconds"] for part in parts), 1
            ),
        }
    )


@contextmanager
def _clips_folder(out_dir: Path, keep: bool) -> Iterator[Path]:
    if keep:
        yield out_dir / "clips"
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@contextmanager
def _quiet(pipe: RealTimeJazzPipeline | None) -> Iterator[None]:
    """No bar per step inside the parts, and the pipeline's own setting back afterwards."""
    if pipe is None or not hasattr(pipe, "set_progress_bar_config"):
        yield
        return
    before = dict(getattr(pipe, "_progress_bar_config", {}))
    pipe.set_progress_bar_config(**{**before, "disable": True})
    try:
        yield
    finally:
        pipe.set_progress_bar_config(**before)
