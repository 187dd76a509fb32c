"""A whole benchmark: cases in processes of their own, in turns, into one report."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from rtjazz_hf import hub
from rtjazz_hf.evaluation.writing import to_plain

from .hardware import describe_hardware
from .recipes import RECIPES, TrainingSettings, compute_recipe, plan_training
from .report import ratios, verdicts
from .settings import DEFAULT_DTYPES, OWN_MODELS, BenchmarkSettings, Case, plan_beside, plan_cases
from .timing import torch_threads
from .workers import CaseFailed, InProcess, Isolated

Say = Callable[[str], None]
# Another case joins a round only while so much is free: what the largest of them needs to be built.
_FREE_HOST, _FREE_GPU = 4e9, 8e9


def run_benchmark(
    settings: BenchmarkSettings | None = None,
    *,
    peers: dict[str, dict[str, Any]] | None = None,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Measure pipelines and peers on this machine.

    Every case has a process of its own. Those that are compared take turns, round by round, so that what else the
    machine does hits all alike; how many of them do at once depends on the free memory, and "batch" says which did.
    A case that fails ends itself alone and is told under "failed".

    Args:
        peers: configurations that take the place of the published ones, by name.
        say: is told what is being measured.

    Returns:
        "hardware", "settings", "cases" (each with its "case", and its figures or "failed"), "ratios" (to
        MusicGen-small), "table" (what was asked and measured), "wall_seconds". JSON's types only.

    Raises:
        OSError, ValueError: a model that cannot be had, or settings that are not allowed; before any work.
    """
    settings = _with_dtypes(settings or BenchmarkSettings())
    settings.check_generation()
    return _run(settings, lambda sources: plan_cases(_with_attention(settings), sources, peers), say)


def run_profile(
    settings: BenchmarkSettings | None = None,
    out: str | Path | None = None,
    *,
    say: Say = lambda text: None,
) -> dict[str, Any]:
    """Find where the time of a block goes: each model at the main block, first type, attention and threads.

    Args:
        out: folder for `profile.png` and, of each model, `trace_NAME.json.gz` (for chrome://tracing or Perfetto).

    Returns:
        As `run_benchmark`; "pictures" and "traces" are names in the folder.

    Raises:
        OSError, ValueError: as `run_benchmark`. ImportError: matplotlib is missing and there is a folder to draw in.
    """
    settings = _with_dtypes(settings or BenchmarkSettings())
    settings.check_generation()
    traces = {name: f"trace_{Path(name).name}.json.gz" for name in settings.models}

    def plan(sources: dict[str, str]) -> list[Case]:
        return [
            Case(
                "profile", name, "alone", sources[name],
                dtype=settings.dtypes[0], device=settings.device, threads=settings.thread_counts[0],
                attention=settings.main_attention, engine="torch", compile=settings.compile,
                block_frames=settings.main_block,
                steps=(settings.steps or (None,))[:1], guidance_scale=settings.guidance_scale,
                window_frames=settings.window_frames, seconds=settings.seconds, rounds=1, seed=settings.seed,
                files={"trace": str(Path(out) / traces[name])} if out is not None else {},
            )
            for name in settings.models
        ]  # fmt: skip

    report = _run(settings, plan, say)
    profiles = [(each["label"], each) for each in report["cases"] if "failed" not in each]
    if out is not None and profiles:
        from .profiling import plot_profiles

        plot_profiles(profiles, Path(out) / "profile.png")
        report["pictures"] = ["profile.png"]
        report["traces"] = [traces[each["case"]["name"]] for _, each in profiles]
    return report


def run_beside(settings: BenchmarkSettings, *, say: Say = lambda text: None) -> dict[str, Any]:
    """Play in real time beside busy processes, as many at a time as `settings.beside` names.

    Numbers of threads take turns of `BESIDE_TURN` seconds, `settings.minutes` each in all. Blocks are made for a
    listener who has one block in hand: a block that takes longer than it plays is a gap.

    Returns:
        As `run_benchmark`.

    Raises:
        OSError, ValueError: as `run_benchmark`.
    """
    settings = _with_dtypes(settings)
    settings.check_generation()
    begun = time.perf_counter()
    check_models(settings)
    hardware = describe_hardware(settings.device)
    measured = []
    with _sources(settings, say) as sources:
        for count in settings.beside:
            with busy_processes(count):
                measured += _run_group(plan_beside(settings, sources, count), settings, say)
    return _report(settings, hardware, measured, begun)


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that compute without a pause, each on one core; they end with this one."""
    busy = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n    sum(range(100_000))\n"
    processes = [subprocess.Popen([sys.executable, "-S", "-c", busy]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def run_training_benchmark(
    settings: TrainingSettings | None = None, *, say: Say = lambda text: None
) -> dict[str, Any]:
    """Measure how fast this machine trains codec, flow and adapters, and compute what the recipes would take.

    A few real optimizer steps of each with random weights at the real sizes, in a process of its own. Recipes for GPUs
    are computed: counted FLOPs over an assumed share of the maker's peak (`recipes.UTILISATIONS`). None of it was run.

    Returns:
        As `run_benchmark`; "recipes" has a row for each recipe whose part and size were measured.
    """
    settings = settings or TrainingSettings()
    begun = time.perf_counter()
    with torch_threads(settings.threads):
        hardware = describe_hardware(settings.device)
    measured = _run_group(plan_training(settings), settings, say)
    done = {each["case"].name: each for each in measured if "failed" not in each}
    computed = [(recipe, done.get(f"{recipe.part} {recipe.size}")) for recipe in RECIPES]
    for each in measured:
        each["case"] = dataclasses.asdict(each["case"])
    report = {
        "hardware": hardware,
        "settings": dataclasses.asdict(settings),
        "cases": measured,
        "recipes": [compute_recipe(recipe, figures) for recipe, figures in computed if figures],
        "table": [],
        "wall_seconds": time.perf_counter() - begun,
    }
    return to_plain(report)


def _run(
    settings: BenchmarkSettings, plan: Callable[[dict[str, str]], list[Case]], say: Say
) -> dict[str, Any]:
    begun = time.perf_counter()
    check_models(settings)
    with torch_threads(settings.thread_counts[0]):
        hardware = describe_hardware(settings.device)
    with _sources(settings, say) as sources:
        cases = plan(sources)
        measured = []
        for group in ("comparison", "variants", "alone"):
            measured += _run_group([case for case in cases if case.group == group], settings, say)
    return _report(settings, hardware, sorted(measured, key=lambda each: cases.index(each["case"])), begun)


def _report(
    settings: BenchmarkSettings, hardware: dict[str, Any], measured: list[dict[str, Any]], begun: float
) -> dict[str, Any]:
    report: dict[str, Any] = {"hardware": hardware, "settings": dataclasses.asdict(settings), "cases": measured}
    for each in report["cases"]:
        each["case"] = dataclasses.asdict(each["case"])
    report["ratios"] = ratios(report)
    report["table"] = verdicts(report)
    report["wall_seconds"] = time.perf_counter() - begun
    return to_plain(report)


def _run_group(
    cases: Sequence[Case], settings: BenchmarkSettings | TrainingSettings, say: Say
) -> list[dict[str, Any]]:
    """The cases of a group, as many at once as there is memory for, in turns."""
    measured: list[dict[str, Any]] = []
    waiting = list(cases)
    alone = bool(cases) and cases[0].group == "alone"
    batch = 0
    while waiting:
        batch += 1
        going: list[InProcess | Isolated] = []
        failed: dict[Case, str] = {}
        workers: list[InProcess | Isolated] = []
        try:
            while waiting and not (workers and (alone or not _room_for_another(settings.device))):
                case = waiting.pop(0)
                say(f"loading {case.label}")
                worker = Isolated(case) if settings.isolate else InProcess(case)
                workers.append(worker)
                _try(worker.start, case, failed, settings)
                if case not in failed:
                    going.append(worker)
            for number in range(max(worker.case.rounds for worker in workers)):
                for worker in going:
                    once = alone and worker.case.kind != "train"
                    if worker.case not in failed and number < (1 if once else worker.case.rounds):
                        say(f"round {number + 1}: {worker.case.label}")
                        _try(worker.round, worker.case, failed, settings)
            for worker in workers:
                case = worker.case
                result = None if case in failed else _try(worker.result, case, failed, settings)
                each = {"case": case, "label": case.label, "group": case.group, "batch": batch}
                measured.append(each | ({"failed": failed[case]} if case in failed else result))
                if case in failed:
                    say(f"failed: {case.label}: {failed[case]}")
        finally:
            for worker in workers:
                worker.stop()
    return measured


def _try(
    do: Callable[[], Any], case: Case, failed: dict[Case, str], settings: BenchmarkSettings | TrainingSettings
) -> Any:
    try:
        return do()
    except CaseFailed as error:
        failed[case] = str(error)
    except Exception as error:
        if settings.isolate:  # not the case's own doing
            raise
        failed[case] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _room_for_another(device: str) -> bool:
    if torch.device(device).type == "cuda" and torch.cuda.mem_get_info(device)[0] < _FREE_GPU:
        return False
    return psutil.virtual_memory().available > _FREE_HOST


def _with_dtypes(settings: BenchmarkSettings) -> BenchmarkSettings:
    """float32 and bfloat16, or what the device is fast in of them, unless the settings say which."""
    if settings.dtypes:
        return settings
    from rtjazz_hf.runtime.precision import bfloat16_is_fast

    dtypes = DEFAULT_DTYPES if bfloat16_is_fast(settings.device) else ("float32",)
    return dataclasses.replace(settings, dtypes=dtypes)


def _with_attention(settings: BenchmarkSettings) -> BenchmarkSettings:
    """sdpa and eager, and flash where it is installed and runs, unless the settings say which."""
    if settings.attention:
        return settings
    from transformers.utils import is_flash_attn_2_available

    found = ["sdpa", "eager"]
    if settings.device.startswith("cuda") and settings.dtypes[0] != "float32" and is_flash_attn_2_available():
        found.append("flash_attention_2")
    return dataclasses.replace(settings, attention=tuple(found))


def _source_name(settings: BenchmarkSettings, name: str) -> str:
    return settings.mini if name in OWN_MODELS else name


def check_models(settings: BenchmarkSettings) -> None:
    """Refuse names that can be no model and folders that are none, before any work.

    Raises:
        OSError, ValueError: as `RealTimeJazzPipeline.from_pretrained`.
    """
    for name in settings.models:
        folder, local = hub.resolve_pretrained(_source_name(settings, name))
        if local:
            hub.check_pipeline_folder(folder)


@contextmanager
def _sources(settings: BenchmarkSettings, say: Say) -> Iterator[dict[str, str]]:
    """Where each model is loaded from; base is written to a folder that goes again."""
    sources = {name: _source_name(settings, name) for name in settings.models}
    if "base" not in sources:
        yield sources
        return
    with tempfile.TemporaryDirectory(prefix="rtjazz-base-") as folder:
        from .base import save_base_pipeline

        say("building base with random weights")
        sources["base"] = str(save_base_pipeline(folder, settings.mini, settings.seed))
        yield sources
