"""Where a block's time goes: torch's profiler over some blocks of a live session, summed up by part of the model.

Parts are found by the names of modules and by the public methods that the engine calls, so the sums follow the models
wherever their code goes; what no part claims is told as such. The profiler itself costs time, mostly a little for
every operator: shares are of profiled blocks, and the plain block time stands beside them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from rtjazz_hf.audio import FRAME_RATE
from rtjazz_hf.pipeline_realtime_jazz import RealTimeJazzPipeline
from rtjazz_hf.runtime.files import whole_or_not_at_all
from rtjazz_hf.runtime.offload import only_watching

from .settings import Case
from .streams import count_parameters, fill_window, live_session, load_pipeline
from .timing import timed

_MARK = "rtjazz::"
_BLOCK = "block"
_REST = "flow, the rest"
# A module of the flow belongs to the first of these that its path speaks of.
_PARTS_OF_FLOW = (
    ("flow attention", ("attn",)),
    ("flow MLP", ("mlp",)),
    ("conditions", ("embedding", "modulation", "adaln", "style", "lead_sheet")),
    ("flow head", ("head",)),
)
PYTHON = "Python, dispatch and waiting"
OUTSIDE = "outside the models"
PARTS = (
    *(name for name, _ in _PARTS_OF_FLOW),
    _REST,
    "cache append",
    "decode",
    OUTSIDE,
    PYTHON,
)
_WHOLE = ("cache append", "decode", "conditions")  # everything that runs inside these is theirs
MAX_BLOCKS = 4  # some ten thousand operators each: more make traces that no viewer opens
TOP_OPERATORS = 12


class ProfileContender:
    """A live session, profiled: one round is all of it."""

    def __init__(self, case: Case):
        self.case = case
        self.pipe = load_pipeline(case)

    def warm_up(self) -> None:
        # one thread: operators of a worker are in no block's range
        self.session = live_session(self.pipe, self.case, overlap=False)
        fill_window(self.session, self.pipe, self.case)

    def round(self) -> None:
        device, duration = self.case.device, self.case.block_frames / FRAME_RATE
        blocks = max(1, min(MAX_BLOCKS, round(self.case.seconds / duration)))
        plain = [timed(lambda: next(self.session), device)[0] for _ in range(blocks)]
        activities = [ProfilerActivity.CPU]
        if torch.device(device).type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with marked_parts(self.pipe), profile(activities=activities) as profiler:
            for _ in range(blocks):
                with record_function(_MARK + _BLOCK):
                    timed(lambda: next(self.session), device)
        self.profile = {
            "blocks": blocks,
            "duration_ms": 1000 * duration,
            "plain_ms": 1000 * statistics.median(plain),
            **sum_up(profiler.events(), blocks, device),
        }
        if trace := self.case.files.get("trace"):
            with whole_or_not_at_all(Path(trace)) as partial:
                profiler.export_chrome_trace(str(partial))

    def result(self) -> dict[str, Any]:
        self.session.close()
        return {"parameters": count_parameters(self.pipe), **self.profile}


@contextmanager
def marked_parts(pipe: RealTimeJazzPipeline) -> Iterator[None]:
    """Every part of the models tells the profiler when it begins and ends; afterwards they are as before."""
    transformer = pipe.transformer
    with ExitStack() as stack:
        stack.enter_context(_marked_module(transformer, _REST))
        claimed: list[str] = []
        for path, module in transformer.named_modules():
            part = part_of_flow(path)
            if isinstance(module, nn.Linear):
                continue  # with a hook on it it would not be packed, and another engine would be measured
            if part is not None and not any(path.startswith(f"{other}.") for other in claimed):
                claimed.append(path)
                stack.enter_context(_marked_module(module, part))
                for name in ("step", "cross_step"):  # what runs where conditions were prepared, not `forward`
                    if hasattr(module, name):
                        stack.enter_context(_marked_method(module, name, part))
        methods = [(transformer, "append_to_cache", "cache append"), (pipe.codec, "decode", "decode")]
        # An engine may make the conditions of all steps at once, or let the session's features be made elsewhere.
        optional = [
            (transformer, "prepare_conditions", "conditions"),
            (pipe, "prepare_features", "conditions"),
        ]
        for owner, name, part in methods + [each for each in optional if hasattr(each[0], each[1])]:
            stack.enter_context(_marked_method(owner, name, part))
        yield


def part_of_flow(path: str) -> str | None:
    """The part that a module of the flow belongs to, by its path; `None` for layers and other containers."""
    for part, words in _PARTS_OF_FLOW:
        if any(word in path for word in words):
            return part
    return None


@contextmanager
def _marked_module(module: nn.Module, part: str) -> Iterator[None]:
    ranges: list[record_function] = []

    @only_watching  # else it would be measured how models with hooks play
    def begin(*_: Any) -> None:
        ranges.append(record_function(_MARK + part))
        ranges[-1].__enter__()

    @only_watching
    def end(*_: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    handles = (module.register_forward_pre_hook(begin), module.register_forward_hook(end, always_call=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _marked_method(owner: Any, name: str, part: str) -> Iterator[None]:
    method = getattr(owner, name)

    def marked(*args: Any, **kwargs: Any) -> Any:
        with record_function(_MARK + part):
            return method(*args, **kwargs)

    owner.__dict__[name] = marked  # past `__setattr__`, which the pipeline has for its components
    try:
        yield
    finally:
        del owner.__dict__[name]


def sum_up(events: Sequence[Any], blocks: int, device: str) -> dict[str, Any]:
    """Milliseconds a block of every part, and the operators that cost most.

    Args:
        events: of a profiler, with the marks of `marked_parts` and one of `block` around each block.

    Returns:
        "profiled_ms"; "parts": name, "ms" in operators (on a GPU: in kernels), "share"; what is left of the block's
        wall time is Python, dispatch and waiting. Operators of other threads are counted, so that where they ran
        beside the block's own the sum is more than the wall time: "beside_ms". "operators": name, calls, ms.
    """
    on_gpu = torch.device(device).type == "cuda"
    wall = 0.0
    by_part = dict.fromkeys(PARTS, 0.0)
    operators: dict[str, list[float]] = {}
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # kernels: counted with the operators that launched them
        if event.name == _MARK + _BLOCK:
            wall += event.time_range.elapsed_us()
        if event.name.startswith(_MARK):
            continue
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        calls = operators.setdefault(event.name, [0, 0.0])
        calls[0] += 1
        calls[1] += own
        if event.cpu_parent is None or event.cpu_parent.name.startswith(_MARK):  # no operator's own operator
            total = event.device_time_total if on_gpu else event.time_range.elapsed_us()
            by_part[_part_of_event(event)] += total
    busy = sum(by_part.values())
    by_part[PYTHON] = max(0.0, wall - busy)
    scale = 1e-3 / blocks
    top = sorted(operators.items(), key=lambda item: -item[1][1])[:TOP_OPERATORS]
    return {
        "profiled_ms": wall * scale,
        "beside_ms": max(0.0, busy - wall) * scale,
        "parts": [
            {"name": name, "ms": spent * scale, "share": spent / max(wall, busy, 1e-9)}
            for name, spent in by_part.items()
        ],
        "operators": [
            {"name": name, "calls": calls / blocks, "ms": spent * scale} for name, (calls, spent) in top
        ],
    }


def _part_of_event(event: Any) -> str:
    marks = []
    while (event := event.cpu_parent) is not None:
        if event.name.startswith(_MARK):
            marks.append(event.name.removeprefix(_MARK))
    for mark in reversed(marks):  # the outermost first
        if mark in _WHOLE:
            return mark
    return next((mark for mark in marks if mark != _BLOCK), OUTSIDE)


def plot_profiles(profiles: Sequence[tuple[str, dict[str, Any]]], path: str | Path) -> Path:
    """A bar for each profile, cut into its parts, and below it the operators that cost most.

    Args:
        profiles: (title, result of `ProfileContender`).

    Raises:
        ImportError: matplotlib is missing.
    """
    from rtjazz_hf.evaluation.pictures import _figure

    path = Path(path)
    figure = _figure(11, 1.0 + 4.2 * len(profiles))
    panels = figure.subplots(2 * len(profiles), 1, height_ratios=[1.0, 2.2] * len(profiles), squeeze=False)[
        :, 0
    ]
    for index, (title, result) in enumerate(profiles):
        bar, table = panels[2 * index : 2 * index + 2]
        left = 0.0
        for number, part in enumerate(result["parts"]):
            label = f"{part['name']}: {part['ms']:.1f} ms, {100 * part['share']:.0f}%"
            colour = "0.75" if part["name"] == PYTHON else f"C{number}"
            bar.barh([0], [part["ms"]], left=left, color=colour, label=label)
            left += part["ms"]
        bar.set_yticks([])
        bar.set_xlim(0, max(left, 1e-3))
        bar.set_xlabel("ms a block, profiled")
        bar.set_title(
            f"{title}\n{result['plain_ms']:.1f} ms a block of {result['duration_ms']:.0f} ms "
            f"({result['profiled_ms']:.1f} ms under the profiler)",
            loc="left",
            fontsize=10,
        )
        bar.legend(loc="upper left", bbox_to_anchor=(1.0, 1.05), fontsize=8, frameon=False)
        operators = result["operators"][::-1]
        table.barh([f"{each['name']} ×{each['calls']:.0f}" for each in operators], [each["ms"] for each in operators],
                   color="0.5")  # fmt: skip
        table.tick_params(axis="y", labelsize=8)
        table.set_xlabel("ms a block, in the operator itself")
    with whole_or_not_at_all(path) as partial:
        figure.savefig(partial, dpi=110)
    return path
