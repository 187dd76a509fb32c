"""Runs on a disk that fills: what they have is kept, and the same command ends as if nothing had been."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from full_disk import Row, call, places, try_places
from scripts import load_script
from synthetic_takes import write_takes
from test_training_scripts import flow_options, log

from rtjazz_hf import RealTimeJazzFlowTransformer
from rtjazz_hf.music import LeadSheet
from rtjazz_hf.trainers.run import complete_checkpoints, damaged_files

pytestmark = pytest.mark.slow


class TestRuns:
    """What takes long keeps what it has, and the same command ends as if nothing had been."""

    @pytest.fixture(scope="class")
    def corpus(self, tmp_path_factory) -> Path:
        return write_takes(tmp_path_factory.mktemp("corpus"))

    def test_training(self, disk, tiny_pipeline, corpus, tmp_path):
        for needed in ("tensorboard", "yaml"):
            pytest.importorskip(needed)
        parts = tmp_path / "parts"
        tiny_pipeline.codec.save_pretrained(parts / "codec")
        tiny_pipeline.style_encoder.save_pretrained(parts / "style")
        tiny_pipeline.tokenizer.save_pretrained(parts / "style")
        script, run = load_script("train_flow"), disk.path / "run"
        (tmp_path / "latents").mkdir()

        def train():
            return call(script.main, flow_options(corpus, parts, run, data=tmp_path / "latents"))

        def end():
            model = RealTimeJazzFlowTransformer.from_pretrained(run / "final")
            return log(run), {name: value.clone() for name, value in model.state_dict().items()}

        def sound_checkpoints():
            found = complete_checkpoints(run)
            assert not any(damaged_files(folder) for folder in found)
            assert {path.name for path in (run / "checkpoints").glob("*")} == {
                folder.name for folder in found
            }
            return found

        disk.put({})
        empty = disk.free
        assert train().code == 0
        needs, (rows, weights) = empty - disk.free, end()
        row = Row("train_flow")
        for pages in places(needs, 8):
            disk.put({})
            disk.leave(pages)
            ended, row.places = train(), row.places + 1
            row.refused += ended.code == 1
            row.whole += ended.code == 0
            assert ended.code in (0, 1) and "Traceback" not in ended.said, ended.said
            if ended.code == 1:
                words = ("cannot be written: no space left on device", str(run), "make room on that disk")
                assert all(word in ended.said for word in words), ended.said
            sound_checkpoints()
            disk.make_room()
            again = train()
            assert again.code == 0, again.said
            assert end()[0] == rows
            assert all(torch.equal(end()[1][name], value) for name, value in weights.items())
        disk.put({})
        print(f"\n{row}", end="")
        assert row.refused

    def test_latents(self, disk, tiny_folder, corpus):
        script = load_script("prepare_latents")

        def run():
            parts = ["--codec", tiny_folder, "--style-encoder", tiny_folder]
            return call(script.main, ["--takes", corpus, *parts, "--data", disk.path / "latents", "--quiet"])

        row = try_places("prepare_latents", disk, None, run, 12)
        assert not row.faults and row.refused

    def test_corpus(self, disk, monkeypatch):
        pytest.importorskip("pyloudnorm")
        from rtjazz_hf.corpus import prepare
        from rtjazz_hf.corpus.renderer import RendererUnavailable

        script = load_script("prepare_corpus")
        try:
            prepare.shared_renderer("fluid")
        except RendererUnavailable as error:
            pytest.skip(str(error))

        def draw(rng, *groove):
            return LeadSheet.from_chart("Dm7 | G7", tempo=200, instruments=("piano", "bass", "brushes"))

        monkeypatch.setattr(prepare, "draw_lead_sheet", draw)

        def run():
            small = ["--hours", "0.01", "--workers", "1", "--quiet", "--soundfont", "fluid"]
            return call(script.main, ["--out", disk.path / "corpus", *small])

        row = try_places("prepare_corpus", disk, None, run, 12)
        assert not row.faults and row.refused
