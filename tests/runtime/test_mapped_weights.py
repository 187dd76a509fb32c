"""Weights that lie in their file: what they are, what becomes of them when they are written to, and of their file."""

from __future__ import annotations

import copy
import mmap
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import build_tiny_pipeline, make_adapter

from rtjazz_hf import RealTimeJazzPipeline
from rtjazz_hf.runtime import mapped_weights as mapped

pytest.importorskip("openvino")
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems load as ever")
PARTS = ("codec", "transformer", "style_encoder")


@pytest.fixture(scope="module")
def halved(tmp_path_factory):
    """A pipeline's folder with weights of 16 bits, as models are published."""
    folder = tmp_path_factory.mktemp("pipelines") / "halved"
    pipe = build_tiny_pipeline()
    for part in PARTS:
        getattr(pipe, part).to(torch.bfloat16 if part == "transformer" else torch.float16)
    pipe.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(halved, tmp_path):
    return shutil.copytree(halved, tmp_path / "pipeline")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("RTJAZZ_GRAPHS", str(tmp_path / "kept"))
    monkeypatch.setattr(mapped, "_WORTH_MAPPING", 0)
    return tmp_path / "kept"


def load(folder, **kwargs) -> RealTimeJazzPipeline:
    pipe = RealTimeJazzPipeline.from_pretrained(folder, **kwargs)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def weights_of(pipe) -> dict[str, torch.Tensor]:
    return {f"{part}.{name}": w for part in PARTS for name, w in getattr(pipe, part).state_dict().items()}


def all_equal(one, other) -> bool:
    one, other = weights_of(one), weights_of(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestAreWhatTheyWere:
    def test_mapped_weights_are_those_that_are_loaded_and_play_to_the_bit(self, folder, kept):
        plain, first, second = load(folder, engine="torch"), load(folder), load(folder)
        assert len(list(kept.iterdir())) == len(PARTS)
        assert mapped.are_untouched(second.transformer.parameters())
        assert not mapped.are_untouched(plain.transformer.parameters())
        for pipe in (first, second):
            assert all_equal(pipe, plain)
            for part in PARTS:
                assert getattr(pipe, part).config.to_dict() == getattr(plain, part).config.to_dict()
                assert not getattr(pipe, part).training
            assert all(w.data_ptr() % 64 == 0 for w in weights_of(pipe).values() if w.is_floating_point())
        played = [pipe("swing trio", 1.0, generator=torch.manual_seed(3)).audios for pipe in (plain, second)]
        assert (played[0] == played[1]).all()

    def test_what_was_forgotten_is_looked_up_again(self, folder, kept):
        pipe = load(folder)
        before = {name: weight.clone() for name, weight in weights_of(pipe).items()}
        for part in PARTS:
            mapped.forget(getattr(pipe, part).parameters())
        assert all(torch.equal(weight, before[name]) for name, weight in weights_of(pipe).items())

    def test_forgetting_takes_pages_out_of_memory(self, tmp_path, kept):
        save_file({"a": torch.randn(1 << 20).half(), "b": torch.ones(7).half()}, tmp_path / "model.safetensors")
        weights = mapped.mapped_weights(tmp_path)
        assert resident(weights["a"]) == 0
        weights["a"].sum()
        assert resident(weights["a"]) > 0.9
        mapped.forget(weights.values(), least=1 << 30)
        assert resident(weights["a"]) > 0.9
        mapped.forget(weights.values())
        assert resident(weights["a"]) == 0


class TestAreWritten:
    @pytest.mark.parametrize("how", ["in place", "data", "a step"])
    def test_what_was_written_stays_and_is_no_other_pipelines(self, folder, kept, how):
        pipe, other = load(folder), load(folder)
        weight = pipe.transformer.input_proj.weight
        before = weight.detach().clone()
        if how == "in place":
            with torch.no_grad():
                weight.add_(1.0)
        elif how == "data":
            weight.data[0, 0] += 1.0
        else:
            optimizer = torch.optim.SGD([weight], lr=0.1)
            weight.square().sum().backward()
            optimizer.step()
        after = weight.detach().clone()
        assert not torch.equal(before, after)
        assert not mapped.are_untouched(pipe.transformer.parameters())
        mapped.forget(pipe.transformer.parameters())
        assert torch.equal(weight, after)
        assert all_equal(other, load(folder))
        assert mapped.are_untouched(other.transformer.parameters())

    def test_a_pipeline_saved_over_the_folder_it_came_from_keeps_all(self, folder, kept):
        pipe, plain = load(folder), load(folder, engine="torch")
        with torch.no_grad():
            pipe.transformer.input_proj.weight.mul_(2)
            plain.transformer.input_proj.weight.mul_(2)
        pipe.save_pretrained(folder)
        assert all_equal(pipe, plain)
        assert all_equal(load(folder), plain)

    def test_copies_have_weights_of_their_own(self, folder, kept):
        pipe = load(folder)
        copied = copy.deepcopy(pipe.transformer)
        assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), pipe.transformer.parameters(), strict=True))
        with torch.no_grad():
            copied.input_proj.weight.zero_()
        assert mapped.are_untouched(pipe.transformer.parameters())
        half = pipe.to(torch.bfloat16).transformer
        assert half.dtype == torch.bfloat16 and not mapped.are_untouched(half.parameters())

    def test_adapters_play_on_them(self, folder, kept, tmp_path):
        sounds = []
        make_adapter(tmp_path / "adapter", seed=1)
        for engine in ("torch", "auto"):
            pipe = load(folder, engine=engine)
            pipe.load_lora_weights(tmp_path / "adapter")
            sounds.append(pipe("swing trio", 1.0, generator=torch.manual_seed(3)).audios)
        assert (sounds[0] == sounds[1]).all()


class TestTheirFile:
    def test_is_written_once_and_serves_on_when_it_is_gone(self, folder, kept):
        pipe = load(folder)
        written = {path: path.stat().st_ino for path in kept.iterdir()}
        load(folder)
        assert {path: path.stat().st_ino for path in kept.iterdir()} == written
        for path in written:
            path.unlink()
        assert all_equal(pipe, load(folder))

    def test_cut_short_is_written_anew(self, folder, kept):
        pipe = load(folder, engine="torch")
        load(folder)
        for path in kept.iterdir():
            path.write_bytes(path.read_bytes()[:-64])
        assert all_equal(load(folder), pipe)

    def test_only_the_last_few_stay(self, tmp_path, kept, monkeypatch):
        monkeypatch.setattr(mapped, "_MOST", 2)
        for seed in range(3):
            save_file({"a": torch.full((8,), float(seed))}, tmp_path / "model.safetensors")
            assert mapped.mapped_weights(tmp_path)["a"].tolist() == [seed] * 8
        assert len(list(kept.iterdir())) == 2

    def test_there_is_none_where_they_are_loaded_as_ever(self, folder, kept, tmp_path, monkeypatch):
        for kwargs in ({"engine": "torch"}, {"dtype": torch.bfloat16}):
            load(folder, **kwargs)
        assert not kept.exists()
        (tmp_path / "file").write_text("in the folder's place")
        monkeypatch.setenv("RTJAZZ_GRAPHS", str(tmp_path / "file"))
        assert mapped.mapped_weights(folder / "transformer") is None
        monkeypatch.setenv("RTJAZZ_GRAPHS", "")
        assert mapped.mapped_weights(folder / "transformer") is None
        monkeypatch.setenv("RTJAZZ_GRAPHS", str(kept))
        monkeypatch.delattr(mmap, "MADV_DONTNEED")
        assert mapped.mapped_weights(folder / "transformer") is None
        monkeypatch.undo()
        monkeypatch.setenv("RTJAZZ_GRAPHS", str(kept))
        assert mapped.mapped_weights(folder / "transformer") is None  # few weights

    def test_what_is_wrong_with_the_weights_is_told_as_ever(self, folder, kept):
        path = folder / "transformer" / "model.safetensors"
        weights = load_file(path)
        weights["input_proj.weight"][0, 0] = float("nan")
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"NaN or infinite values in input_proj\.weight"):
            load(folder)
        del weights["input_proj.weight"]
        save_file(weights, path, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=r"lacks weights input_proj\.weight"):
            load(folder)

    def test_a_full_disk_leaves_no_half_a_file(self, folder, disk, monkeypatch):
        monkeypatch.setattr(mapped, "_WORTH_MAPPING", 0)
        monkeypatch.setenv("RTJAZZ_GRAPHS", str(disk.path))
        disk.leave(20)
        pipe = load(folder)
        assert not mapped.are_untouched(pipe.transformer.parameters())
        disk.make_room()
        assert all_equal(load(folder), pipe)
        disk.put({})


def resident(weight: torch.Tensor) -> float:
    """The share of its pages that this process has in memory."""
    page, first = mmap.PAGESIZE, -(-weight.data_ptr() // mmap.PAGESIZE)
    count = (weight.data_ptr() + weight.nbytes) // page - first
    with open("/proc/self/pagemap", "rb") as table:
        table.seek(first * 8)
        entries = table.read(8 * count)
    return sum(entry >> 7 for entry in entries[7::8]) / count
