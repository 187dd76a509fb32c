"""Encoded takes: what is stored, resuming, crops, and stores of other models."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from synthetic_takes import write_takes

from rtjazz_hf.audio import read_audio
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.latent_filling import embed_takes, encode_takes, fill_takes
from rtjazz_hf.corpus.latent_store import LatentStore
from rtjazz_hf.music import LEAD_SHEET_DIM


@pytest.fixture(scope="module")
def takes(tmp_path_factory):
    return load_takes(write_takes(tmp_path_factory.mktemp("corpus"), seconds=1.5))


def make_store(pipe, takes, folder, codes=False):
    encode_takes(pipe.codec, takes, folder, codes=codes, progress=False)
    return embed_takes(pipe.style_encoder, pipe.tokenizer, takes, folder, progress=False)


@pytest.fixture(scope="module")
def folder(tiny_pipeline, takes, tmp_path_factory):
    return make_store(tiny_pipeline, takes, tmp_path_factory.mktemp("store"), codes=True)


class TestContents:
    def test_latents_and_codes_are_the_codecs(self, tiny_pipeline, takes, folder):
        store = LatentStore(folder)
        for take, stored in zip(takes, store, strict=True):
            audio = torch.from_numpy(np.ascontiguousarray(read_audio(take.path)))[None]
            encoded = tiny_pipeline.codec.encode(audio)
            assert stored.latents.dtype == torch.float16
            assert stored.num_frames == math.ceil(audio.shape[-1] / 640)
            assert torch.equal(stored.latents, encoded.latents[0].T.half())
            assert torch.equal(stored.codes.long(), encoded.codes[0])
            assert stored.lead_sheet == take.lead_sheet
            assert (stored.name, stored.caption) == (take.path.parent.name, take.caption)
        assert store.hours == pytest.approx(sum(take.num_frames for take in store) / 75 / 3600)

    def test_styles_are_unit_vectors_of_captions_and_clips(self, tiny_pipeline, folder):
        take = LatentStore(folder)[0]
        size = tiny_pipeline.style_encoder.config.projection_dim
        assert take.text.shape == (2, size) and take.audio.shape == (3, size)
        norms = torch.cat([take.text, take.audio]).norm(dim=-1)
        assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)

    def test_where_players_are_silent_most_words_speak_of_all(self, tiny_pipeline, takes, tmp_path):
        take = dataclasses.replace(takes[0], full_captions=("quartet with piano", "piano quartet"))
        style_encoder, tokenizer = tiny_pipeline.style_encoder, tiny_pipeline.tokenizer
        embed_takes(style_encoder, tokenizer, [take], tmp_path, progress=False)
        stored = load_file(tmp_path / "styles" / "000000.safetensors")
        tokens = tokenizer([*take.full_captions, take.caption], return_tensors="pt", padding=True)
        with torch.no_grad():
            words = style_encoder.encode_text(tokens["input_ids"], tokens["attention_mask"])
        assert torch.allclose(stored["text"], words, atol=1e-6)
        assert torch.equal(stored["audio"], stored["text"])  # its clips would tell who is silent

    def test_splits(self, folder):
        assert [take.name for take in LatentStore(folder, "train")] == ["000000", "000001"]
        assert [take.name for take in LatentStore(folder, "test")] == ["000002"]
        assert len(LatentStore(folder)) == 3


class TestCrop:
    @pytest.mark.parametrize("start, frames", [(0, 1), (7, 36), (50, 60)])
    def test_is_a_piece_of_latents_codes_and_chart(self, folder, start, frames):
        take = LatentStore(folder)[1]
        crop = take.crop(start, frames)
        assert torch.equal(crop["latents"], take.latents[start : start + frames].float().T)
        assert torch.equal(crop["codes"], take.codes[:, start : start + frames].long())
        assert crop["lead_sheet"].shape == (frames, LEAD_SHEET_DIM)
        assert np.array_equal(crop["lead_sheet"].numpy(), take.lead_sheet.features(start, frames))

    @pytest.mark.parametrize("start, frames", [(-1, 10), (0, 0), (100, 36)])
    def test_outside_the_take_is_refused_by_name(self, folder, start, frames):
        with pytest.raises(ValueError, match="000000"):
            LatentStore(folder)[0].crop(start, frames)


class TestResume:
    def test_what_is_there_is_kept_and_what_is_half_there_is_made_again(
        self, tiny_pipeline, takes, folder, tmp_path
    ):
        make_store(tiny_pipeline, takes[:2], tmp_path, codes=True)
        (tmp_path / "takes" / "000001.json").unlink()  # killed between a take's two files
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("000000.*")}
        make_store(tiny_pipeline, takes, tmp_path, codes=True)
        assert {path.name: path.stat().st_mtime_ns for path in tmp_path.rglob("000000.*")} == before
        assert not list(tmp_path.rglob("*.partial"))
        for one, other in zip(LatentStore(tmp_path), LatentStore(folder), strict=True):
            assert torch.equal(one.latents, other.latents) and torch.equal(one.text, other.text)

    def test_a_store_without_styles_says_so(self, tiny_pipeline, takes, tmp_path):
        encode_takes(tiny_pipeline.codec, takes[:1], tmp_path, progress=False)
        with pytest.raises(FileNotFoundError, match="embed_takes"):
            LatentStore(tmp_path)

    def test_a_folder_that_is_no_store(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"index\.json"):
            LatentStore(tmp_path)


def content(folder):
    """Every file of a store and its bytes, as a dict."""
    return {
        path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


class TestFill:
    def fill(self, pipe, takes, folder, **options):
        models = pipe.codec, pipe.style_encoder, pipe.tokenizer
        return fill_takes(*models, takes, folder, codes=True, progress=False, **options)

    def test_is_both_halves_whatever_the_parts(self, tiny_pipeline, takes, folder, tmp_path):
        for index in range(2):
            self.fill(tiny_pipeline, takes[index::2], tmp_path)
        assert content(tmp_path) == content(folder)

    def test_goes_on_with_what_is_missing(self, tiny_pipeline, takes, folder, tmp_path):
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        missing = [tmp_path / "takes" / "000000.json", tmp_path / "styles" / "000001.safetensors"]
        for path in missing:
            path.unlink()
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
        self.fill(tiny_pipeline, takes, tmp_path)
        assert content(tmp_path) == content(folder)
        after = {path: path.stat().st_mtime_ns for path in before}
        assert {path for path in before if after[path] != before[path]} == {
            missing[0].with_suffix(".safetensors")
        }

    def test_another_take_of_the_same_name_is_refused(self, tiny_pipeline, takes, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "store")
        other = dataclasses.replace(takes[0], caption="another corpus's first take")
        with pytest.raises(ValueError, match="another take of the name 000000"):
            self.fill(tiny_pipeline, [other], tmp_path / "store")

    def test_embeddings_of_another_style_encoder_lie_beside(self, tiny_pipeline, takes, folder, tmp_path):
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
        style_encoder = copy.deepcopy(tiny_pipeline.style_encoder)
        with torch.no_grad():
            style_encoder.text_projection.weight.neg_()
        models = tiny_pipeline.codec, style_encoder, tiny_pipeline.tokenizer
        with pytest.raises(ValueError, match="style embeddings"):
            fill_takes(*models, takes, tmp_path, codes=True, progress=False)
        fill_takes(*models, takes, tmp_path, codes=True, progress=False, styles="other")
        old = content(folder)
        assert old.items() <= content(tmp_path).items()
        one, other = LatentStore(tmp_path)[0], LatentStore(tmp_path, styles="other")[0]
        assert torch.equal(one.latents, other.latents) and not torch.equal(one.text, other.text)

    @pytest.mark.parametrize("name", ["takes", "index", "", "../styles", "a/b"])
    def test_names_that_are_none(self, tiny_pipeline, takes, tmp_path, name):
        with pytest.raises(ValueError, match="no name for style embeddings"):
            self.fill(tiny_pipeline, takes, tmp_path, styles=name)
        assert not list(tmp_path.iterdir())


def flip(path, place):
    """Turn one bit of a file's byte."""
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


def visit(folder):
    """What training does: open a store and read every take."""
    for take in LatentStore(folder):
        take.crop(0, take.num_frames)
        assert torch.isfinite(take.text).all() and torch.isfinite(take.audio).all()


class TestDamage:
    @pytest.fixture
    def copied(self, folder, tmp_path):
        return shutil.copytree(folder, tmp_path / "store")

    def test_a_whole_store_is_verified(self, copied):
        assert LatentStore(copied).verify() == 6
        visit(copied)

    @pytest.mark.parametrize(
        "name", ["takes/000001.safetensors", "styles/000001.safetensors", "takes/000001.json"]
    )
    @pytest.mark.parametrize("damage", ["first bit", "bit in the middle", "last bit", "cut", "empty", "gone"])
    def test_is_named_and_mended_by_filling_again(self, tiny_pipeline, takes, folder, copied, name, damage):
        path = copied / name
        size = path.stat().st_size
        if damage.endswith("bit") or damage.startswith("bit"):
            flip(path, {"first bit": 0, "last bit": size - 1}.get(damage, size // 2))
        elif damage == "gone":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[: size // 2 if damage == "cut" else 0])
        if damage == "gone" and path.suffix == ".json":  # as a take that was never finished
            assert [take.name for take in LatentStore(copied)] == ["000000", "000002"]
        else:
            with pytest.raises((ValueError, FileNotFoundError), match=f"{path}.* (damaged|missing)"):
                visit(copied)
            with pytest.raises((ValueError, FileNotFoundError), match=str(path)):
                LatentStore(copied).verify()
        path.unlink(missing_ok=True)
        make_store(tiny_pipeline, takes, copied, codes=True)
        assert content(copied) == content(folder)

    def test_every_damaged_file_is_named_at_once(self, copied):
        for name in ("takes/000000.safetensors", "styles/000002.safetensors"):
            flip(copied / name, -1)
        with pytest.raises(ValueError, match=r"2 damaged.*takes/000000.*styles/000002"):
            LatentStore(copied).verify()

    def test_index(self, tiny_pipeline, takes, folder, copied):
        for name in ("index.json", "styles.json"):
            (copied / name).write_text("{")
            with pytest.raises(ValueError, match=rf"{name} is damaged"):
                make_store(tiny_pipeline, takes, copied, codes=True)
            (copied / name).unlink()
            make_store(tiny_pipeline, takes, copied, codes=True)
        assert content(copied) == content(folder)

    def test_stores_of_before_there_were_checksums(self, copied):
        for path in copied.glob("*/*.safetensors"):
            save_file(load_file(path), path)
        for path in copied.glob("takes/*.json"):
            label = json.loads(path.read_text())
            path.write_text(json.dumps({key: label[key] for key in ("lead_sheet", "caption", "split")}))
        assert LatentStore(copied).verify() == 0
        visit(copied)


class TestOtherModels:
    def test_another_encoder_is_refused_and_another_decoder_is_not(self, tiny_pipeline, takes, folder):
        codec = copy.deepcopy(tiny_pipeline.codec)
        with torch.no_grad():
            next(codec.decoder.parameters()).add_(1.0)
        encode_takes(codec, takes, folder, codes=True, progress=False)
        LatentStore(folder).check_codec(codec)
        with torch.no_grad():
            next(codec.encoder.parameters()).add_(1.0)
        with pytest.raises(ValueError, match="give another folder"):
            encode_takes(codec, takes, folder, codes=True, progress=False)
        with pytest.raises(ValueError, match="another codec"):
            LatentStore(folder).check_codec(codec)

    def test_other_statistics_are_another_codec(self, tiny_pipeline, takes, folder):
        codec = copy.deepcopy(tiny_pipeline.codec)
        codec.config.latents_mean = tuple(value + 0.1 for value in codec.config.latents_mean)
        with pytest.raises(ValueError, match="give another folder"):
            encode_takes(codec, takes, folder, codes=True, progress=False)

    def test_takes_with_and_without_codes_do_not_mix(self, tiny_pipeline, takes, folder):
        with pytest.raises(ValueError, match="codes"):
            encode_takes(tiny_pipeline.codec, takes, folder, codes=False, progress=False)

    def test_another_style_encoder_is_refused(self, tiny_pipeline, takes, folder):
        style_encoder = copy.deepcopy(tiny_pipeline.style_encoder)
        with torch.no_grad():
            next(style_encoder.parameters()).add_(1.0)
        with pytest.raises(ValueError, match="style embeddings"):
            embed_takes(style_encoder, tiny_pipeline.tokenizer, takes, folder, progress=False)
