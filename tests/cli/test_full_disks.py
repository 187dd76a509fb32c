"""Every command on a disk that fills: what was there is kept, or replaced whole, and it is said what to do.

    python -m pytest -m slow tests/cli/test_full_disks.py tests/trainers/test_full_disk_runs.py -n 0 -s

prints a row for each. Wants to mount a tmpfs (root, on Linux), and skips without.
"""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from full_disk import call, try_places
from safetensors.torch import load
from scripts import load_script
from synthetic_takes import write_takes
from tiny_models import make_adapter, plucked_clip

from rtjazz_hf import cli
from rtjazz_hf.audio import write_audio

pytestmark = pytest.mark.slow


@pytest.fixture
def at_hand(tiny_pipeline, monkeypatch):
    """Commands that take the tiny pipeline as it is: reading it at every place would take most of the time."""
    from rtjazz_hf.cli import codec, evaluate, generate, play

    for room in (generate, play, evaluate):
        monkeypatch.setattr(room, "load_pipeline", lambda *_, **__: tiny_pipeline)
    monkeypatch.setattr(codec, "_load_codec", lambda _: tiny_pipeline.codec)


@pytest.fixture(scope="module")
def take(tmp_path_factory) -> Path:
    return write_audio(tmp_path_factory.mktemp("take") / "take.wav", np.tile(plucked_clip(5.0)[0].numpy(), 6))


def sounds(name: str, data: bytes) -> bool:
    """Whether a recording can be read to its end, up to which something was played."""
    if not name.endswith((".wav", ".flac", ".ogg")):
        return False
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        return len(file.read()) == file.frames > 0


def tune(*arguments: object) -> list[object]:
    """As quick as it gets, over what is there."""
    return [*arguments, "--steps", 1, "--guidance", 1, "--device", "cpu", "--overwrite"]


class TestCommands:
    """`rtjazz ...` over files that are there."""

    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
    def test_generate(self, disk, at_hand, suffix):
        def run(seed):
            out = disk.path / f"a.{suffix}"
            return call(cli.main, tune("generate", "swing", "-o", out, "--duration", "1.2", "--seed", seed))

        row = try_places(f"generate .{suffix}", disk, lambda: run(1), lambda: run(2), 50)
        assert not row.faults and row.refused

    def test_generate_with_all_that_it_writes(self, disk, at_hand):
        def run(seed):
            out = ["-o", disk.path / "a.flac", "--plot", disk.path / "a.png", "--codes", disk.path / "a.rtj"]
            return call(cli.main, tune("generate", "swing", *out, "--duration", "0.5", "--seed", seed))

        row = try_places("generate --plot --codes", disk, lambda: run(1), lambda: run(2), 50, whole)
        assert not row.faults and row.refused

    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
    def test_play(self, disk, at_hand, suffix):
        """A recording keeps what was played; the file that was there before goes when there is something to keep."""

        def run(seed):
            out = ["--output", disk.path / f"a.{suffix}", "--duration", "1.0", "--no-display"]
            return call(cli.main, tune("play", "swing", *out, "--seed", seed))

        row = try_places(f"play --output .{suffix}", disk, lambda: run(1), lambda: run(2), 50, sounds)
        assert not row.faults and row.refused

    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
    def test_codec_decode(self, disk, at_hand, take, tmp_path, suffix):
        audio, rate = soundfile.read(take)
        for name, seconds in (("one", 1.0), ("other", 1.5)):
            soundfile.write(tmp_path / f"{name}.wav", audio[: int(rate * seconds)], rate)
            typed = ["codec", "encode", tmp_path / f"{name}.wav", "-o", tmp_path / f"{name}.rtj"]
            assert call(cli.main, typed).code == 0

        def run(name):
            return call(
                cli.main, ["codec", "decode", tmp_path / name, "-o", disk.path / f"a.{suffix}", "--overwrite"]
            )

        row = try_places(
            f"codec decode .{suffix}", disk, lambda: run("one.rtj"), lambda: run("other.rtj"), 50
        )
        assert not row.faults and row.refused

    def test_codec_encode(self, disk, at_hand, take, tmp_path):
        audio, rate = soundfile.read(take)
        soundfile.write(tmp_path / "long.wav", np.tile(audio, (3, 1)), rate)

        def run(file):
            return call(cli.main, ["codec", "encode", file, "-o", disk.path / "a.rtj", "--overwrite"])

        row = try_places("codec encode", disk, lambda: run(take), lambda: run(tmp_path / "long.wav"), 50)
        assert not row.faults and row.refused

    def test_codec_compare(self, disk, at_hand, take):
        def run(seconds):
            out = ["-o", disk.path / "out", "--seconds", seconds, "--overwrite"]
            return call(cli.main, ["codec", "compare", take, *out])

        row = try_places("codec compare", disk, lambda: run(0.5), lambda: run(0.7), 12)
        assert not row.faults and row.refused

    def test_evaluate(self, disk, at_hand, tmp_path_factory):
        """A report that grows part by part: what it had is kept, and nothing of it is cut."""
        for needed in ("librosa", "matplotlib", "pyloudnorm"):
            pytest.importorskip(needed)
        corpus = write_takes(tmp_path_factory.mktemp("corpus"), count=2, held_out=2)

        def run():
            size = ["--num-takes", 1, "--duration", "1", "--long-duration", "2"]
            out = ["--out", disk.path / "report", "--only", "charts"]
            return call(cli.main, ["evaluate", "--takes", corpus, *out, *size])

        row = try_places("evaluate", disk, None, run, 12, whole)
        assert not row.faults and row.refused

    def test_benchmark(self, disk, tiny_folder):
        def run():
            small = ["--models", "mini", "--peers", "none", "--quick", "--seconds", "0.1", "--threads", "1",
                     "--steps", "1", "--window", "36", "--block-frames", "36", "--dtype", "float32",
                     "--attn", "sdpa"]  # fmt: skip
            out = ["--out", disk.path / "report", "--overwrite"]
            return call(cli.main, ["benchmark", "--model", tiny_folder, "--device", "cpu", *small, *out])

        row = try_places("benchmark --out", disk, run, run, 3, whole)
        assert not row.faults and row.refused


def whole(name: str, data: bytes) -> bool:
    """Of files with times or measurements in them: whether they can be read to their end."""
    if name.endswith(".json"):
        json.loads(data)
    elif name.endswith(".rtj"):  # whose metadata come in an order of chance
        load(data)
    elif name.endswith(".png"):
        return data.endswith(b"IEND\xaeB`\x82")
    elif not name.endswith(".md"):
        return sounds(name, data)
    return True


class TestScripts:
    """Those of `conversion/`: a folder appears whole or not at all."""

    def test_merge_adapter(self, disk, tiny_folder, tmp_path):
        pytest.importorskip("peft")
        make_adapter(tmp_path / "a", 1)
        load_script("assemble_pipeline", "conversion")  # which the script imports
        script = load_script("merge_adapter", "conversion")

        def run(dtype):
            out = ["-o", disk.path / "out", "--overwrite", "--dtype", dtype]
            return call(script.main, [tiny_folder, tmp_path / "a", *out])

        row = try_places("merge_adapter", disk, lambda: run("float16"), lambda: run("float32"), 12)
        assert not row.faults and row.refused

    def test_quantize(self, disk, tiny_folder):
        load_script("assemble_pipeline", "conversion")
        script = load_script("quantize", "conversion")

        def run():
            return call(script.main, [tiny_folder, "-o", disk.path / "out", "--overwrite"])

        row = try_places("quantize", disk, run, run, 12)
        assert not row.faults and row.refused
