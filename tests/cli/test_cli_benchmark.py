"""`rtjazz benchmark` on the tiny pipeline: files, exit codes, processes of their own. Nothing about speed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from rtjazz_hf import cli
from rtjazz_hf.benchmark import workers
from rtjazz_hf.benchmark.settings import Case

SMALL = ["--models", "mini", "--peers", "none", "--quick", "--seconds", "0.1", "--threads", "1", "--window", "36",
         "--steps", "1"]  # fmt: skip


@pytest.fixture
def benchmark(tiny_folder, tmp_path, monkeypatch, capsys):
    """Run `rtjazz benchmark` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, device: str = "cpu") -> tuple[int, str, str]:
        code = cli.main(["benchmark", "--model", str(tiny_folder), "--device", device, *arguments])
        return code, *capsys.readouterr()

    return run


def test_report_from_processes_of_their_own(benchmark):
    code, out, err = benchmark(
        *SMALL,
        "--block-frames",
        "36",
        "--dtype",
        "float32",
        "bfloat16",
        "--attn",
        "sdpa",
        "--out",
        "report",
        "--json",
    )
    assert code == 0 and "Streaming, all included" in err and "loading mini, float32" in err
    report = json.loads(out)
    assert sorted(os.listdir("report")) == ["benchmark.json", "benchmark.md"]
    assert json.loads(Path("report/benchmark.json").read_text()) == report
    assert Path("report/benchmark.md").read_text().startswith("# Benchmark")
    assert len(report["cases"]) == 2
    for each in report["cases"]:
        assert each["peak_memory_mb"]["host"] > 100 and list(each["steps"]) == ["1"]
        assert each["batch"] == report["cases"][0]["batch"]  # they took turns
    code, _, err = benchmark(*SMALL, "--out", "report")
    assert code == 2 and "--overwrite" in err and err.count("\n") == 1


def test_a_case_that_dies_is_told_and_the_exit_code_says_so(benchmark, monkeypatch):
    class Dying(workers.Isolated):
        def round(self) -> None:
            if self.case.dtype == "bfloat16":
                self.process.kill()  # as the system does when memory runs out
            super().round()

    monkeypatch.setattr("rtjazz_hf.benchmark.run.Isolated", Dying)
    code, out, err = benchmark(
        *SMALL, "--block-frames", "12", "--dtype", "float32", "bfloat16", "--attn", "sdpa", "--json"
    )
    first, second = json.loads(out)["cases"]
    assert code == 1 and "steps" in first and "exit code -9" in second["failed"]
    assert "rtjazz: error: not measured: mini, bfloat16" in err


def test_a_case_that_cannot_be_built(tiny_folder):
    worker = workers.Isolated(Case("stream", "mini", "variants", str(tiny_folder / "gone")))
    with pytest.raises(workers.CaseFailed, match="gone"):
        worker.start()
    worker.stop()
    assert not worker.process.is_alive()


def test_profile(benchmark):
    pytest.importorskip("matplotlib")
    code, out, err = benchmark("--profile", *SMALL, "--dtype", "float32", "--out", "profile", "--json")
    assert code == 0 and "flow attention" in err
    assert sorted(os.listdir("profile")) == [
        "profile.json", "profile.md", "profile.png", "trace_mini.json.gz"]  # fmt: skip
    assert json.loads(out)["traces"] == ["trace_mini.json.gz"]


class TestRefusals:
    """Exit code 2, one line that names the input, nothing written, and no model read."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--models", "./nowhere"], "nowhere"),
            (["--models", "mini", "mini"], "once"),
            (["--models", "file.txt"], "file.txt"),
            (["--peers", "jukebox"], "jukebox: choose from musicgen-small"),
            (["--peers", "none", "encodec"], "give none alone"),
            (["--block-frames", "5"], "block_frames 5: choose from 6"),
            (["--block-frames", "x"], "'x'"),
            (["--steps", "0"], "num_inference_steps 0"),
            (["--beside", "65"], "beside 65: choose 0 to 64"),
            (["--beside", "1", "--profile"], "--beside and --profile"),
            (["--guidance", "-1"], "guidance_scale -1"),
            (["--window", "0"], "window_frames 0"),
            (["--dtype", "int4"], "int4"),
            (["--threads", "-1"], "threads -1"),
            (["--attn", "telepathy"], "telepathy"),
            (["--seconds", "0"], "seconds 0"),
            (["--minutes", "-1"], "minutes -1"),
            (["--minutes", "nan"], "minutes nan"),
            (["--seed", "-1"], "'-1'"),
            (["--out", "no/folder"], "parent"),
            (["--out", "file.txt"], "file"),
        ],
    )
    def test_is_named(self, benchmark, monkeypatch, arguments, words):
        Path("file.txt").write_text("text")
        monkeypatch.setattr("rtjazz_hf.benchmark.run._run", lambda *_: pytest.fail("work began"))
        code, out, err = benchmark(*arguments)
        assert code == 2 and out == ""
        assert err.startswith("rtjazz: error: ") and err.count("\n") == 1 and words in err
        assert os.listdir() == ["file.txt"]

    def test_device(self, benchmark):
        code, _, err = benchmark(device="warp")
        assert code == 2 and "warp" in err


def test_help_has_examples(capsys):
    assert cli.main(["benchmark", "--help"]) == 0
    out = capsys.readouterr().out
    assert "example:\n  rtjazz benchmark --out bench/" in out and "--profile" in out


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(benchmark):
    code, out, _ = benchmark(*SMALL, "--dtype", "bfloat16", "--attn", "sdpa", "--json", device="cuda")
    report = json.loads(out)
    assert code == 0 and report["hardware"]["gpu"]["name"]
    assert all(each["peak_memory_mb"]["gpu"] > 0 for each in report["cases"])
