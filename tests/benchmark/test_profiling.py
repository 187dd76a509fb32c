"""The profile: every part of the models is found, sums hang together, and the models are as before afterwards."""

from __future__ import annotations

import gzip
import json

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from rtjazz_hf.benchmark import BenchmarkSettings, run_profile
from rtjazz_hf.benchmark.profiling import PARTS, PYTHON, marked_parts, part_of_flow, sum_up
from rtjazz_hf.benchmark.report import to_markdown, to_text


@pytest.fixture(scope="module")
def profiled(tiny_folder, tmp_path_factory):
    pytest.importorskip("matplotlib")
    out = tmp_path_factory.mktemp("profile")
    settings = BenchmarkSettings(
        models=("mini",), mini=str(tiny_folder), block_frames=(12,), window_frames=24, dtypes=("float32",),
        threads=(1,), seconds=0.3, isolate=False,
    )  # fmt: skip
    return run_profile(settings, out), out


def test_parts_sum_up_to_the_block(profiled):
    report, _ = profiled
    (case,) = report["cases"]
    assert [part["name"] for part in case["parts"]] == list(PARTS) and case["blocks"] == 2
    spent = sum(part["ms"] for part in case["parts"])
    assert spent == pytest.approx(case["profiled_ms"] + case["beside_ms"])
    assert sum(part["share"] for part in case["parts"]) == pytest.approx(1)
    parts = {part["name"]: part["ms"] for part in case["parts"]}
    for name in ("flow attention", "flow MLP", "conditions", "cache append", "decode", PYTHON):
        assert parts[name] > 0, name
    assert case["operators"] and case["operators"][0]["ms"] >= case["operators"][-1]["ms"]
    assert case["plain_ms"] > 0 and case["duration_ms"] == pytest.approx(160)


def test_picture_trace_and_text(profiled):
    report, out = profiled
    assert (out / "profile.png").read_bytes().startswith(b"\x89PNG")
    (trace,) = report["traces"]
    with gzip.open(out / trace) as file:
        names = {event.get("name") for event in json.load(file)["traceEvents"]}
    assert {"rtjazz::block", "rtjazz::decode", "rtjazz::flow MLP"} <= names
    assert sorted(path.name for path in out.iterdir()) == ["profile.png", trace]
    assert "flow attention" in to_text(report) and "![profile.png](profile.png)" in to_markdown(report)


def test_models_are_as_before(tiny_pipeline):
    with marked_parts(tiny_pipeline):
        marked = next(tiny_pipeline.live("swing", seed=1)).audio
    assert "append_to_cache" not in vars(tiny_pipeline.transformer)
    assert "decode" not in vars(tiny_pipeline.codec) and "prepare_features" not in vars(tiny_pipeline)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in tiny_pipeline.transformer.modules()
    )
    assert (next(tiny_pipeline.live("swing", seed=1)).audio == marked).all()


def test_operators_outside_a_block_and_a_part_are_told_so():
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        torch.ones(50, 50) @ torch.ones(50, 50)
    parts = {part["name"]: part["ms"] for part in sum_up(profiler.events(), 1, "cpu")["parts"]}
    assert parts["outside the models"] > 0 and parts[PYTHON] == 0


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("layers.3.self_attn", "flow attention"),
        ("layers.3.cross_attn", "flow attention"),
        ("layers.3.mlp", "flow MLP"),
        ("layers.3.adaln_up", "conditions"),
        ("lead_sheet_embedding", "conditions"),
        ("style_tokens", "conditions"),
        ("head", "flow head"),
        ("layers.3", None),
        ("", None),
    ],
)
def test_part_by_path(path, part):
    assert part_of_flow(path) == part


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_times_are_of_kernels(tiny_folder):
    settings = BenchmarkSettings(
        models=("mini",), mini=str(tiny_folder), block_frames=(12,), dtypes=("bfloat16",), seconds=0.3, device="cuda"
    )  # fmt: skip
    (case,) = run_profile(settings)["cases"]
    assert sum(part["ms"] for part in case["parts"] if part["name"] != PYTHON) > 0
