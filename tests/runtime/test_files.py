"""Files and folders on disks that fill: old or new, never half; who may read them; what is said."""

from __future__ import annotations

import contextlib
import errno
import os
import stat

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rtjazz_hf.audio import read_audio, write_audio
from rtjazz_hf.live.recording import Recorder
from rtjazz_hf.runtime.files import atomic_folder, whole_or_not_at_all

resource = pytest.importorskip("resource")
NOISE = np.random.default_rng(0).normal(0, 0.1, (2, 24_000)).astype(np.float32)


@contextlib.contextmanager
def disk_of(size):
    """No file grows beyond so many bytes: what a full disk does, to this process alone."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def places(size, count=50):
    """So many sizes of a disk on which a file of `size` bytes has no room, its last page among them."""
    return sorted({*np.linspace(1, size - 1, count).astype(int).tolist(), size - 1, size - 100, size - 4000})


class TestSound:
    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
    def test_full_at_fifty_places(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        write_audio(path, NOISE)
        size, old = path.stat().st_size, (write_audio(path, NOISE[:, :5_000], overwrite=True).read_bytes())
        for place in places(size):
            with (
                disk_of(place),
                pytest.raises(OSError, match="cannot be written: file too large; what was") as e,
            ):
                write_audio(path, NOISE, overwrite=True)
            assert e.value.errno == errno.EFBIG and str(path) in str(e.value)
            assert path.read_bytes() == old and os.listdir(tmp_path) == [path.name]
        with disk_of(size):
            write_audio(path, NOISE, overwrite=True)
        assert read_audio(path).shape == NOISE.shape

    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
    def test_a_recording_says_what_is_in_it(self, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        write_audio(path, np.tile(NOISE, 2))
        for place in places(path.stat().st_size, 12)[3:]:
            recorder = Recorder(path, overwrite=True)
            with disk_of(place), pytest.raises(OSError, match=r"file too large; .* of it (are|is) there"):
                for _ in range(2):
                    recorder.write(NOISE)
                recorder.close()
            recorder.close()
            if recorder.samples:  # of a small ogg nothing is whole yet: what was there before is there
                assert read_audio(path).shape[1] == recorder.samples <= 2 * NOISE.shape[1]
            else:
                assert read_audio(path).shape[1] == 2 * NOISE.shape[1]
            write_audio(path, np.tile(NOISE, 2), overwrite=True)
            assert sorted(os.listdir(tmp_path)) == [path.name]


class TestWhy:
    def test_safetensors(self, tmp_path):
        path = tmp_path / "a.safetensors"
        told = pytest.raises(OSError, match="file too large; nothing of it is left")
        with disk_of(1000), told, whole_or_not_at_all(path) as partial:
            save_file({"a": torch.zeros(4000)}, partial)
        assert os.listdir(tmp_path) == []

    def test_torch(self, tmp_path):
        told = pytest.raises(OSError, match="file too large")
        with disk_of(1000), told, whole_or_not_at_all(tmp_path / "a.pt") as partial:
            torch.save(torch.zeros(4000), partial)

    def test_a_full_disk_says_what_to_do(self, tmp_path):
        told = pytest.raises(OSError, match="no space left on device; nothing of it is left; make room")
        with told as error, whole_or_not_at_all(tmp_path / "a.txt"):
            raise OSError(errno.ENOSPC, "No space left on device")
        assert error.value.errno == errno.ENOSPC

    @pytest.mark.parametrize("error", [
        FileNotFoundError(errno.ENOENT, "no such file", "elsewhere"), RuntimeError("not the disk's"),
        OSError(errno.EIO, "a source that cannot be read", "take.wav"), KeyboardInterrupt(), ValueError("wrong"),
    ])  # fmt: skip
    def test_others_stay_what_they_are(self, tmp_path, error):
        with pytest.raises(type(error)) as raised, whole_or_not_at_all(tmp_path / "a.txt"):
            raise error
        assert raised.value is error and os.listdir(tmp_path) == []

    def test_a_folder_is_written_whole(self, tmp_path):
        folder = tmp_path / "model"
        for replace, kept in ((False, ["a", "b", "sub"]), (True, ["a"])):
            folder.mkdir(exist_ok=True)
            (folder / "b").write_text("another's")
            with atomic_folder(folder, replace=replace) as partial:
                (partial / "a").write_text("new")
                if not replace:
                    (partial / "sub").mkdir()
                    (partial / "sub" / "c").write_text("new")
            assert sorted(os.listdir(folder)) == kept
        told = pytest.raises(OSError, match="model' cannot be written: file too large; what was")
        with disk_of(1000), told, atomic_folder(folder) as partial:
            save_file({"a": torch.zeros(4000)}, partial / "w.safetensors")
        assert os.listdir(folder) == ["a"] and os.listdir(tmp_path) == ["model"]

    def test_a_pipeline(self, tiny_pipeline, tmp_path):
        with disk_of(10_000), pytest.raises(OSError, match="p' cannot be written: file too large; nothing"):
            tiny_pipeline.save_pretrained(tmp_path / "p")
        assert os.listdir(tmp_path) == []


class TestModes:
    @pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
    def test_the_umask_says_who_reads(self, tiny_pipeline, tmp_path, umask):
        before = os.umask(umask)
        try:
            tiny_pipeline.save_pretrained(tmp_path / "pipeline")
            tiny_pipeline.codec.save_pretrained(tmp_path / "codec")
            tiny_pipeline.live("swing", seed=1).save(tmp_path / "night.safetensors")
            write_audio(tmp_path / "a.flac", NOISE)
        finally:
            os.umask(before)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len([path for path in files if path.suffix == ".safetensors"]) == 5
        assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~umask}
