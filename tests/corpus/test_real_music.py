"""Recorded music: what is taken from a package, resuming, what cannot be read, and a system without apt."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rtjazz_hf.audio import read_audio, write_audio
from rtjazz_hf.corpus import real_music
from rtjazz_hf.corpus.real_music import (
    PACKAGES,
    REFUSED,
    RealMusicUnavailable,
    RealPackage,
    fetch_package,
    level,
    load_real_music,
    prepare_real_music,
)

FREE = ("MIT", "GPL-2", "GPL-2+", "GPL-3+", "CC-BY-3.0", "CC-BY-SA-3.0", "CC-BY-SA-3.0+")


def package(name: str, split: str = "train", minutes: float = 1.0) -> RealPackage:
    return RealPackage(
        name, "CC-BY-3.0", "A. Band", "noise", ("music/*",), minutes, split, exclude=("*.tags",)
    )


def noise(seconds: float, channels: int = 2, rate: int = 44_100) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((channels, round(seconds * rate)))


def write_package(root: Path, name: str) -> Path:
    """What a package unpacks to: two tracks of use, others that are not, and one that is broken."""
    music = root / "music"
    music.mkdir()
    (root / "usr/share/doc" / name).mkdir(parents=True)
    (root / "usr/share/doc" / name / "copyright").write_text("CC-BY-3.0")
    write_audio(music / "One Song.ogg", noise(21), sampling_rate=44_100)
    write_audio(music / "two.flac", noise(24, rate=48_000), sampling_rate=48_000)
    with soundfile.SoundFile(music / "three.flac", "w", 44_100, 2) as file:
        file.title, file.artist = "Third", "Somebody"
        file.write(noise(22).T)
    write_audio(music / "effect.ogg", noise(1), sampling_rate=44_100)
    write_audio(music / "mono.flac", noise(21, channels=1), sampling_rate=44_100)
    write_audio(music / "old.flac", noise(21, rate=22_050), sampling_rate=22_050)
    write_audio(music / "lossy.ogg", np.full((2, 21 * 44_100), 0.1), sampling_rate=44_100)
    write_audio(music / "silent.flac", np.zeros((2, 21 * 44_100)), sampling_rate=44_100)
    data = (music / "two.flac").read_bytes()
    (music / "cut.flac").write_bytes(data[: len(data) // 3])
    (music / "text.ogg").write_text("not a sound")
    (music / "two.flac.tags").write_text("title=Two")
    return root


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("unpacked"), "band")


@pytest.fixture
def fetch(unpacked):
    """Fetches every package from that folder, and counts."""
    calls = []

    def fetch(name: str, folder: Path) -> str:
        calls.append(name)
        shutil.copytree(unpacked, folder, dirs_exist_ok=True)
        return "1.0-1"

    fetch.calls = calls
    return fetch


class TestPrepare:
    def test_tracks_of_use_become_recordings(self, tmp_path, fetch):
        said = []
        summary = prepare_real_music(tmp_path, 1, [package("band")], fetch, said.append)
        assert summary["tracks"] == 3 and summary["skipped"] == 3 and summary["missing_packages"] == []
        recordings = load_real_music(tmp_path)
        assert [(item.title, item.author) for item in recordings] == [
            ("One Song", "A. Band"), ("Third", "Somebody"), ("two", "A. Band")
        ]  # fmt: skip
        for item in recordings:
            info = soundfile.info(item.path)
            assert (info.format, info.samplerate, info.channels) == ("FLAC", 48_000, 2)
            assert info.duration == pytest.approx(item.duration) and item.licence == "CC-BY-3.0"
        assert (tmp_path / "real" / "band" / "copyright").read_text() == "CC-BY-3.0"
        rows = [json.loads(line) for line in (tmp_path / "real.jsonl").read_text().splitlines()]
        assert rows[0]["version"] == "1.0-1" and rows[0]["source"] == "music/One Song.ogg"

    def test_what_cannot_be_read_is_named(self, tmp_path, fetch):
        said = []
        prepare_real_music(tmp_path, 1, [package("band")], fetch, said.append)
        named = [line for line in said if "skipped" in line]
        assert len(named) == 3
        assert all(any(name in line for line in named) for name in ("cut.flac", "text.ogg", "silent.flac"))

    def test_a_small_share_takes_the_middle_of_every_track(self, tmp_path, fetch, unpacked):
        prepare_real_music(tmp_path, 0.5 / 60, [package("band")], fetch, print)  # half a minute
        recordings = load_real_music(tmp_path)
        # five tracks count, two of which turn out to be broken or silent
        assert [item.duration for item in recordings] == pytest.approx([6.0] * 3, abs=1e-3)
        two = read_audio(unpacked / "music" / "two.flac")
        middle = two[:, 9 * 48_000 : 15 * 48_000]
        assert np.abs(read_audio(recordings[2].path) - middle).max() < 1e-4

    def test_resumed_and_made_anew_with_another_share(self, tmp_path, fetch):
        packages = [package("band"), package("other")]
        prepare_real_music(tmp_path, 1, packages, fetch, print)
        shutil.rmtree(tmp_path / "real" / "other")  # what an interrupt leaves
        prepare_real_music(tmp_path, 1, packages, fetch, print)
        assert fetch.calls == ["band", "other", "other"]
        prepare_real_music(tmp_path, 1 / 60, packages, fetch, print)
        assert fetch.calls == ["band", "other", "other", "band", "other"]
        assert sum(item.duration for item in load_real_music(tmp_path)) < 60

    def test_splits(self, tmp_path, fetch):
        packages = [package("band"), package("held", split="test")]
        summary = prepare_real_music(tmp_path, 1, packages, fetch, print)
        assert summary["train_hours"] > 0 and summary["test_hours"] > 0
        assert {item.package for item in load_real_music(tmp_path, "train")} == {"band"}
        assert {item.package for item in load_real_music(tmp_path, "test")} == {"held"}

    @pytest.mark.parametrize("hours", [0, -1, float("nan"), float("inf")])
    def test_bad_hours(self, tmp_path, hours):
        with pytest.raises(ValueError, match="hours of recorded music"):
            prepare_real_music(tmp_path, hours)

    def test_a_package_without_music_is_left_out(self, tmp_path, fetch):
        def fetch_one(name: str, folder: Path) -> str:
            return fetch(name, folder) if name == "band" else "1.0"

        said = []
        summary = prepare_real_music(tmp_path, 1, [package("empty"), package("band")], fetch_one, said.append)
        assert summary["missing_packages"] == ["empty"] and "empty: left out" in said[0]
        with pytest.raises(RealMusicUnavailable, match="apt-get update"):
            prepare_real_music(tmp_path / "none", 1, [package("empty")], fetch_one, print)


class TestLoad:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="--real"):
            load_real_music(tmp_path)
        with pytest.raises(ValueError, match="train, test"):
            load_real_music(tmp_path, "valid")

    def test_a_broken_table_and_a_file_that_is_gone(self, tmp_path, fetch):
        prepare_real_music(tmp_path, 1, [package("band")], fetch, print)
        load_real_music(tmp_path)[0].path.unlink()
        assert len(load_real_music(tmp_path)) == 2
        (tmp_path / "real.jsonl").write_text('{"file": "x.flac"}\n')
        with pytest.raises(ValueError, match="line 1"):
            load_real_music(tmp_path)


class TestFetch:
    def test_without_apt(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(RealMusicUnavailable, match=r"apt-get is missing.*Debian"):
            prepare_real_music(tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def fake_apt(self, tmp_path, monkeypatch, words: str) -> None:
        script = tmp_path / "bin" / "apt-get"
        script.parent.mkdir()
        script.write_text(f'#!/bin/sh\necho "W: a warning" >&2\necho "E: {words}" >&2\nexit 100\n')
        script.chmod(0o755)
        monkeypatch.setenv("PATH", str(script.parent), prepend=":")

    def test_without_network(self, tmp_path, monkeypatch):
        self.fake_apt(tmp_path, monkeypatch, "Failed to fetch x: Could not resolve the host")
        monkeypatch.setattr(real_music, "_check_programs", lambda: None)  # dpkg-deb may be missing here
        with pytest.raises(RealMusicUnavailable, match=r"Could not resolve.*network"):
            prepare_real_music(tmp_path / "out")

    def test_packages_that_this_system_does_not_know(self, tmp_path, monkeypatch):
        self.fake_apt(tmp_path, monkeypatch, "Unable to locate package x")
        monkeypatch.setattr(real_music, "_check_programs", lambda: None)
        with pytest.raises(RealMusicUnavailable, match="apt-get update"):
            prepare_real_music(tmp_path / "out", say=lambda text: None)

    @pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is missing: not a Debian system")
    def test_a_package_is_unpacked_and_a_broken_one_removed(self, tmp_path, unpacked):
        tree, cache, folder = tmp_path / "tree", tmp_path / "cache", tmp_path / "folder"
        shutil.copytree(unpacked, tree)
        (tree / "DEBIAN").mkdir()
        (tree / "DEBIAN" / "control").write_text(
            "Package: band\nVersion: 1.2-3\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: music\n"
        )
        cache.mkdir()
        folder.mkdir()
        file = cache / "band_1.2-3_all.deb"
        subprocess.run(["dpkg-deb", "-Znone", "-b", str(tree), str(file)], check=True, capture_output=True)
        assert fetch_package("band", folder, cache) == "1.2-3"
        assert (folder / "music" / "One Song.ogg").is_file()
        file.write_bytes(b"not a package")
        with pytest.raises(RealMusicUnavailable, match="was removed"):
            fetch_package("band", folder, cache)
        assert not file.exists()


class TestTable:
    def test_every_package_has_free_licences_and_three_are_held_out(self):
        for item in PACKAGES:
            assert set(item.licence.split(", ")) <= set(FREE) and item.author and item.minutes > 0
        assert len({item.name for item in PACKAGES}) == len(PACKAGES)
        held_out = [item for item in PACKAGES if item.split == "test"]
        assert len(held_out) >= 3 and len({item.kind for item in held_out}) == len(held_out)
        assert not {item.name for item in PACKAGES} & set(REFUSED)

    def test_level(self):
        assert level([10, 10, 10], 15) == 5
        assert level([1, 10, 10], 15) == 7
        assert level([1, 2, 3], 100) == 3
        assert level([], 5) == 0
