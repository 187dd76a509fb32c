"""Shards of music from elsewhere: the same bytes by any number of workers, after a kill and on a disk that was full."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from external_sources import KINDS, write_many

for module in ("datasets", "librosa", "pyloudnorm"):
    pytest.importorskip(module)

from rtjazz_hf.corpus.external import load_external  # noqa: E402
from rtjazz_hf.corpus.latent_store import LatentStore  # noqa: E402
from rtjazz_hf.corpus.prepare_external import AudioSettings, Speed, prepare_external  # noqa: E402
from rtjazz_hf.corpus.real_music import load_real_music  # noqa: E402

ROOT = Path(__file__).parents[2]


def settings(pipeline: Path, **changes) -> AudioSettings:
    changes = {"recordings_per_shard": 3, "fingerprint": "spectral", "codes": True} | changes
    return AudioSettings(str(pipeline), str(pipeline), **changes)


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "shards").iterdir())}


pytestmark = pytest.mark.slow  # whole preparations, each in processes of its own


@pytest.fixture(scope="module")
def music(tmp_path_factory):
    """Six recordings, one of them mono, and a bad file of each kind. A thousand of them: many_files.py."""
    return write_many(tmp_path_factory.mktemp("music") / "in", 6, len(KINDS))


@pytest.fixture(scope="module")
def made(music, tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    report, speed = prepare_external(
        load_external("folder", music), out, settings(tiny_folder), progress=False
    )
    return out, report, speed


class TestReport:
    def test_every_bad_file_is_named_and_the_rest_is_used(self, made):
        out, report, _ = made
        lines = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
        assert report["reasons"] == dict.fromkeys(sorted(KINDS), 1), lines
        assert report["used"] == 6 and report["mono"] == 1
        assert all(Path(line["file"]).stem.startswith(line["skipped"]) and line["why"] for line in lines)

    def test_speed_and_cost(self, made):
        speed = made[2]
        assert speed.recordings == 17 and speed.audio_seconds > 40
        assert Speed(1, 10.0, 3600.0, 10**9).core_hours(10e12) == 10_000
        assert "10,000 core-hours, 500 at 0.05" in Speed(1, 10.0, 3600.0, 10**9).to_text(0.05)


class TestStore:
    def test_a_flow_can_be_trained_on_it(self, made, tiny_pipeline):
        store = LatentStore(made[0])
        store.check_codec(tiny_pipeline.codec)
        assert len({take.name for take in store}) == len(store) >= 6
        take = store[0]
        crop = take.crop(5, 30)
        assert crop["latents"].shape == (64, 30) and crop["codes"].shape[-1] == 30
        assert take.latents.shape[0] == take.num_frames and len(take.text) >= 1 and len(take.audio) == 3
        assert store.verify() == len(store)

    def test_an_artist_is_in_one_split(self, made):
        splits = {}
        for take in LatentStore(made[0]):
            splits.setdefault(take.name.split("_")[1], set()).add(take.split)
        assert all(len(found) == 1 for found in splits.values())

    def test_the_codec_can_be_trained_on_the_files(self, made, music):
        found = load_real_music(made[0])
        assert len(found) == 6 and all(item.path.is_file() for item in found)

    def test_damage_is_named(self, made, tmp_path):
        out = shutil.copytree(made[0], tmp_path / "out")
        path = next(
            path for path in sorted((out / "shards").glob("*.safetensors")) if path.stat().st_size > 10_000
        )
        data = bytearray(path.read_bytes())
        data[-100] ^= 255
        path.write_bytes(data)
        with pytest.raises(ValueError, match=path.name):
            LatentStore(out).verify()
        path.write_bytes(data[:-10])
        with pytest.raises(ValueError, match=path.name):
            LatentStore(out)


class TestSameBytes:
    def test_two_workers(self, made, music, tiny_folder, tmp_path):
        rows = load_external("folder", music, streaming=True)
        report, _ = prepare_external(rows, tmp_path, settings(tiny_folder), workers=2, progress=False)
        assert shards(tmp_path) == shards(made[0]) and report == made[1]

    def test_ray(self, made, music, tiny_folder, tmp_path):
        pytest.importorskip("ray", reason="pip install 'rtjazz-hf[scale]'")
        rows = load_external("folder", music)
        report, _ = prepare_external(
            rows, tmp_path, settings(tiny_folder), engine="ray", workers=2, progress=False
        )
        assert shards(tmp_path) == shards(made[0]) and report == made[1]

    def test_after_an_interrupt(self, made, music, tiny_folder, tmp_path):
        def until(count):
            for number, row in enumerate(load_external("folder", music)):
                if number == count:
                    raise KeyboardInterrupt
                yield row

        with pytest.raises(KeyboardInterrupt):
            prepare_external(until(10), tmp_path, settings(tiny_folder), progress=False)
        some = shards(tmp_path)
        assert some and some.items() <= shards(made[0]).items()
        report, speed = prepare_external(
            load_external("folder", music), tmp_path, settings(tiny_folder), progress=False
        )
        assert shards(tmp_path) == shards(made[0]) and report == made[1]
        assert 0 < speed.recordings < report["recordings"]

    def test_again_changes_nothing(self, made, music, tiny_folder):
        before = shards(made[0])
        report, speed = prepare_external(
            load_external("folder", music), made[0], settings(tiny_folder), progress=False
        )
        assert shards(made[0]) == before and report == made[1] and speed.recordings == 0

    def test_after_a_kill(self, made, music, tiny_folder, tmp_path):
        command = _command(music, tiny_folder, tmp_path / "out")
        killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        while killed.poll() is None and not list((tmp_path / "out").glob("shards/*.json")):
            time.sleep(0.02)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        some = shards(tmp_path / "out")
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert shards(tmp_path / "out") == shards(made[0]) and some.items() <= shards(made[0]).items()
        assert json.loads(done.stdout)["used"] == 6 and "core-hours" in done.stderr
        assert not list((tmp_path / "out" / ".parts").iterdir())

    def test_after_a_full_disk(self, made, music, tiny_folder, tmp_path):
        command = _command(music, tiny_folder, tmp_path / "out")
        size = max(path.stat().st_size for path in (made[0] / "shards").iterdir())

        def small_disk():
            resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1000, size - 1000))

        full = subprocess.run(command, capture_output=True, text=True, preexec_fn=small_disk)
        assert full.returncode == 1 and "the disk is full: make room" in full.stderr, full.stderr
        assert shards(tmp_path / "out").items() <= shards(made[0]).items()
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert shards(tmp_path / "out") == shards(made[0])


def _command(music: Path, pipeline: Path, out: Path) -> list[str]:
    return [sys.executable, str(ROOT / "training" / "prepare_corpus.py"), "--dataset", "folder", "--source", str(music),
            "--codec", str(pipeline), "--style-encoder", str(pipeline), "--codes", "--shard-size", "3",
            "--workers", "1", "--fingerprint", "spectral", "--out", str(out)]  # fmt: skip


class TestRefusals:
    def test_other_settings(self, made, music, tiny_folder):
        rows = load_external("folder", music)
        with pytest.raises(ValueError, match="codes True, now False"):
            prepare_external(rows, made[0], settings(tiny_folder, codes=False), progress=False)

    def test_other_rows(self, made, music, tiny_folder):
        rows = load_external("folder", music)
        with pytest.raises(ValueError, match="the source or the selection has changed"):
            prepare_external(rows.skip(1), made[0], settings(tiny_folder), progress=False)
        with pytest.raises(ValueError, match="not there any more"):
            prepare_external(rows.take(3), made[0], settings(tiny_folder), progress=False)

    def test_engine_and_workers(self, made, music, tiny_folder):
        for wrong in ({"engine": "spark"}, {"workers": 0}):
            with pytest.raises(ValueError, match="choose"):
                prepare_external([], made[0], settings(tiny_folder), progress=False, **wrong)
