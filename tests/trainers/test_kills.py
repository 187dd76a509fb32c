"""kill -9 at ten random moments and more of each trainer's run, and once with a checkpoint half written: what was
killed and started again ends with the weights, and the log, of a run that nobody stopped.

    python -m pytest -m slow tests/trainers/test_kills.py -n 0 -s     prints kills, resumes and the largest difference
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from scripts import load_script
from synthetic_takes import played, write_takes
from test_training_scripts import codec_options, flow_options, log, options
from tiny_models import TINY_STYLE

from rtjazz_hf.audio import write_audio
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.latent_filling import fill_takes
from rtjazz_hf.trainers.run import complete_checkpoints, damaged_files, latest_checkpoint

for needed in ("tensorboard", "yaml", "matplotlib"):
    pytest.importorskip(needed)
pytestmark = pytest.mark.slow
STEPS, SAVE_EVERY = 20, 3
KILLS, MOMENTS = 10, 12  # on a busy machine a run may end before its last moment is noticed
TRAINERS = ("train_codec", "train_flow", "distill_flow", "finish_flow", "train_style", "train_lora")
# A process of its own for each part of a run, from one that has imported already what takes seconds.
_context = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="module")
def inputs(tiny_pipeline, tiny_folder, tmp_path_factory) -> Path:
    """Takes, recordings, and a pipeline with latents of the takes."""
    _context.set_forkserver_preload(
        ["test_training_scripts", "rtjazz_hf.trainers.adapter", "rtjazz_hf.trainers.codec"]
    )
    folder = tmp_path_factory.mktemp("inputs")
    write_takes(folder / "corpus", count=6, held_out=2)
    shutil.copytree(tiny_folder, folder / "pipe")
    parts = tiny_pipeline.codec, tiny_pipeline.style_encoder, tiny_pipeline.tokenizer
    fill_takes(*parts, load_takes(folder / "corpus"), folder / "latents", progress=False)
    (folder / "recordings").mkdir()
    for number in range(2):
        write_audio(folder / "recordings" / f"{number}.wav", played(seed=number))
    return folder


def typed(trainer: str, inputs: Path, out: Path) -> list[str]:
    """The command line of a run that uses all that the trainer keeps in its checkpoints."""
    shared = {"max_steps": STEPS, "save_every": SAVE_EVERY}
    pipe = inputs / "pipe"
    if trainer == "train_codec":  # encoder and quantiser together, then frozen; discriminators all the while
        return codec_options(inputs / "corpus", out, **shared, quantize_from=6, freeze_encoder_at=12)
    if trainer == "train_flow":
        settings = {"codec": pipe, "style_encoder": pipe, "order": "epoch", "validate_every": 5}
        return flow_options(inputs / "corpus", inputs, out, **shared, **settings)
    if trainer == "distill_flow":
        return options(**shared, data=inputs / "latents", codec=pipe, teacher=pipe, output_dir=out, crop_frames=72,
                       full_attention_rate=0.3, teacher_steps=4, steps=2, shift=2.0, validate_every=5)  # fmt: skip
    if trainer == "finish_flow":  # the discriminator alone at first, then both
        return options(**shared, data=inputs / "latents", codec=pipe, teacher=pipe, output_dir=out, crop_frames=72,
                       full_attention_rate=0.3, steps=2, head_start=5, validate_every=5)  # fmt: skip
    if trainer == "train_style":
        heads = {"text_num_heads": 2, "audio_num_heads": 2, "projection_dim": 16}
        return options(**shared, data=inputs / "corpus", output_dir=out, model={**TINY_STYLE, **heads},
                       min_crop_seconds=1.0, crop_seconds=1.5, eval_every=5)  # fmt: skip
    return options(**shared, recordings=inputs / "recordings", base=pipe, name="tester", output_dir=out, ema_decay=0,
                   crop_frames=144, validate_every=5, patience=0)  # fmt: skip


def run_script(trainer: str, arguments: list[str], told: Path) -> None:
    """One run in this process, what it says in the file `told`."""
    sys.stdout = sys.stderr = told.open("w", buffering=1)
    load_script(trainer).main(arguments)


class Run:
    """A run of a trainer that can be killed and started again.

    Attributes: `out`: its folder. `kills`, `resumes`: how often it was, and went on from a checkpoint.
    """

    def __init__(self, trainer: str, arguments: list[str], out: Path) -> None:
        self.trainer, self.arguments, self.out = trainer, arguments, out
        self.told = out.with_suffix(".txt")
        self.kills = self.resumes = 0
        self.process: multiprocessing.Process | None = None

    def start(self) -> None:
        whole = [folder for folder in complete_checkpoints(self.out) if not damaged_files(folder)]
        self.newest = whole[-1].name if whole else None
        self.told.unlink(missing_ok=True)
        self.machine_log = self.out / "machine.jsonl"  # nothing is taken back of it, as of log.jsonl
        self.before = self.machine_log.stat().st_size if self.machine_log.is_file() else 0
        self.process = _context.Process(
            target=run_script, args=(self.trainer, self.arguments, self.told), daemon=True
        )
        self.process.start()

    def wait_until(self, there: Callable[[], bool]) -> bool:
        """Whether it was `there` before the run had ended."""
        while self.process.is_alive():
            if there():
                return True
            time.sleep(0.0005)
        return False

    def steps(self) -> int:
        """The optimizer step that was logged last since the start; 0 before the first."""
        return int(self._last_row().get("step", 0))

    def _last_row(self) -> dict[str, float]:
        if not self.machine_log.is_file():
            return {}
        rows = self.machine_log.read_bytes()[self.before :].decode().splitlines(keepends=True)
        return next((json.loads(row) for row in reversed(rows) if row.endswith("}\n")), {})

    def kill_at(self, moment: float, start_seconds: float) -> None:
        """At 3.2, say, when step 3 is logged and a fifth of the next step has gone by; below 1 as it starts, in so many
        of the seconds that starting takes."""
        if moment < 1:
            late = time.monotonic() + moment * start_seconds
            self.wait_until(lambda: self.steps() or time.monotonic() > late)
        else:
            self.wait_until(lambda: self.steps() >= int(moment))
            time.sleep(moment % 1 / self._last_row().get("steps_per_second", 1e3))
        self.kill()

    def kill(self) -> None:
        alive = self.process.is_alive()
        self.process.kill()  # SIGKILL
        self.process.join()
        assert not alive or self.process.exitcode in (0, -9), self.told.read_text()[-3000:]
        self.kills += self.process.exitcode == -9
        self._see_resume()

    def finish(self) -> None:
        self.process.join()
        assert self.process.exitcode == 0, self.told.read_text()[-3000:]
        self._see_resume()

    def _see_resume(self) -> None:
        said = self.told.read_text() if self.told.is_file() else ""
        if found := re.search(r"resumed from (step-\d+)", said):
            self.resumes += 1
            assert found[1] == self.newest  # the newest whole checkpoint, no older one
        elif self.steps():
            assert self.newest is None, said

    def weights(self) -> dict[str, torch.Tensor]:
        """All tensors of the folder that it ends with."""
        folder = next(self.out / name for name in ("final", "adapter") if (self.out / name).is_dir())
        files = sorted(folder.rglob("*.safetensors"))
        return {f"{file.name}/{name}": value for file in files for name, value in load_file(file).items()}


def prepared(trainer: str, inputs: Path, whole: Path | None, place: Path) -> Run:
    """A run in the new folder `place`; with the recordings already analysed, which is librosa's work, not training."""
    place.mkdir()
    if trainer == "train_lora" and whole is not None:
        shutil.copytree(whole / "takes", place / "run" / "takes")
    return Run(trainer, typed(trainer, inputs, place / "run"), place / "run")


@pytest.mark.parametrize("trainer", TRAINERS)
def test_killed_at_random_moments_and_in_a_checkpoint(trainer, inputs, tmp_path):
    if trainer == "train_lora":
        for needed in ("peft", "librosa"):
            pytest.importorskip(needed)
    whole = prepared(trainer, inputs, None, tmp_path / "whole")
    begun = time.monotonic()
    whole.start()
    whole.wait_until(whole.steps)
    start_seconds = time.monotonic() - begun
    whole.finish()

    killed = prepared(trainer, inputs, whole.out, tmp_path / "killed")
    rng = np.random.default_rng(TRAINERS.index(trainer))
    moments = np.sort(rng.uniform(0, STEPS, MOMENTS))
    moments[rng.random(MOMENTS) < 0.25] %= 1  # these while it starts
    in_checkpoint = int(
        rng.integers(2, MOMENTS // 2)
    )  # after which of them a checkpoint is caught half written
    for number, moment in enumerate(moments):
        killed.start()
        killed.kill_at(moment, start_seconds)
        if number == in_checkpoint:
            kill_in_checkpoint(killed, set(_files(latest_checkpoint(whole.out))))
    killed.start()
    killed.finish()

    states = whole.weights(), killed.weights()
    assert states[0].keys() == states[1].keys() and states[0]
    apart = max(
        (states[1][name].double() - value.double()).abs().max().item() for name, value in states[0].items()
    )
    print(f"\n{trainer}: {killed.kills} kills, {killed.resumes} resumes, largest difference {apart:g}")
    assert killed.kills > KILLS
    assert apart == 0
    assert log(killed.out) == log(whole.out)
    left = {path.name for path in (killed.out / "checkpoints").iterdir()}
    assert left == {folder.name for folder in complete_checkpoints(killed.out)} and len(left) == 2
    assert not damaged_files(latest_checkpoint(killed.out))


def kill_in_checkpoint(run: Run, files: set[str]) -> None:
    """Let the run go on, and kill it when a checkpoint's temporary folder holds some of its `files` and not all."""
    begun = time.time_ns()

    def half_written() -> Path | None:
        for folder in (run.out / "checkpoints").glob(".step-*.partial"):
            if any(file.st_size and file.st_mtime_ns > begun for file in _files(folder).values()):
                return folder
        return None

    for _ in range(3):  # it may be whole before the signal arrives
        run.start()
        run.wait_until(half_written)
        run.kill()
        if (folder := half_written()) is not None:
            break
    names = set(_files(folder))
    assert names and files - names and "state.json" not in names


def _files(folder: Path) -> dict[str, os.stat_result]:
    try:
        return {entry.name: entry.stat() for entry in os.scandir(folder)}
    except FileNotFoundError:  # renamed in the meantime
        return {}
