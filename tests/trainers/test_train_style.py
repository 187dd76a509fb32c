"""The training script itself, end to end on a corpus of a few seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scripts import ROOT, load_script
from transformers import AutoTokenizer

from rtjazz_hf.audio import write_audio
from rtjazz_hf.band import random_lead_sheet
from rtjazz_hf.music import GENRES, LeadSheet
from rtjazz_hf.style import RealTimeJazzStyleEncoder
from rtjazz_hf.trainers.style import short_prompt

pytest.importorskip("tensorboard")

TINY_MODEL = (
    "{vocab_size: 500, text_hidden_size: 32, text_num_layers: 1, text_intermediate_size: 64, "
    "num_mel_bins: 24, audio_hidden_size: 32, audio_num_layers: 1, audio_intermediate_size: 64, "
    "projection_dim: 16}"
)


@pytest.fixture(scope="module")
def script():
    return load_script("train_style")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Twelve takes of three seconds, each genre a pitch of its own, in the layout of prepare_corpus."""
    root = tmp_path_factory.mktemp("takes")
    rng = np.random.default_rng(0)
    lines = []
    for index in range(12):
        genre = GENRES[index % 4]
        sheet = random_lead_sheet(rng, genre=genre)
        folder = root / "takes" / f"{index:06d}"
        folder.mkdir(parents=True)
        t = np.arange(3 * 48_000 if index else 48_000) / 48_000  # the first is shorter than a crop
        tone = 0.2 * np.sin(2 * np.pi * 150 * 3 ** (index % 4) * t)
        write_audio(folder / "mix.flac", np.stack([tone, tone]) + 0.005 * rng.standard_normal((2, len(t))))
        label = {
            "lead_sheet": sheet.to_dict(),
            "caption": f"some {genre}",
            "captions": [f"some {genre}", f"{genre} for a test"],
            "tags": {"genre": genre},
            "seed": index,
            "soundfont": "none",
            "split": "test" if index >= 8 else "train",
            "loudness": -20.0,
        }
        (folder / "label.json").write_text(json.dumps(label))
        lines.append(json.dumps({"file_name": f"takes/{index:06d}/mix.flac", **label}))
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return root


def arguments(corpus: Path, out: Path, **values) -> list[str]:
    settings = {
        "data": corpus, "output-dir": out, "model": TINY_MODEL, "batch-size": 6,
        "min-crop-seconds": 1.0, "crop-seconds": 1.5,
        "max-steps": 6, "warmup-steps": 2, "eval-every": 3, "save-every": 2, "log-every": 1,
        "mixed-precision": "no",
    }  # fmt: skip
    settings |= {key.replace("_", "-"): value for key, value in values.items()}
    return [str(part) for key, value in settings.items() for part in (f"--{key}", value)]


def losses(out: Path) -> list[float]:
    return [
        row["loss"] for row in map(json.loads, (out / "log.jsonl").read_text().splitlines()) if "loss" in row
    ]


class TestScript:
    def test_ends_with_a_folder_that_loads(self, script, corpus, tmp_path):
        metrics = script.main(
            ["--config", str(ROOT / "training/configs/style_mini.yaml"), *arguments(corpus, tmp_path)]
        )
        assert 0.0 <= metrics["retrieval_by_text"] <= 1.0
        model, info = RealTimeJazzStyleEncoder.from_pretrained(tmp_path / "final", output_loading_info=True)
        assert not any(info.values())
        tokens = AutoTokenizer.from_pretrained(tmp_path / "final")(
            "Bill Evans modal jazz", return_tensors="pt"
        )
        assert model.encode_text(**tokens).shape == (1, 16)
        card = (tmp_path / "final" / "README.md").read_text()
        assert "retrieval_by_text" in card
        assert "max_steps: 6" in card

    def test_killed_and_resumed_equals_uninterrupted(self, script, corpus, tmp_path):
        script.main(arguments(corpus, tmp_path / "whole"))
        script.main(arguments(corpus, tmp_path / "parts", max_steps=3, schedule="constant"))
        (tmp_path / "parts" / "checkpoints" / "step-00000003").rename(tmp_path / "later")  # killed after 2
        script.main(arguments(corpus, tmp_path / "parts", schedule="constant"))
        script.main(arguments(corpus, tmp_path / "same", schedule="constant"))
        assert losses(tmp_path / "parts") == losses(tmp_path / "same")
        assert len(losses(tmp_path / "whole")) == 6
        one, two = (
            RealTimeJazzStyleEncoder.from_pretrained(tmp_path / n / "final") for n in ("parts", "same")
        )
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))

    def test_learns_from_files_without_a_cache_and_from_a_model(self, script, corpus, tmp_path):
        script.main(arguments(corpus, tmp_path / "a"))
        more = arguments(corpus, tmp_path / "b", init_from=tmp_path / "a/final")
        metrics = script.main([*more, "--no-cache-features"])
        assert len(losses(tmp_path / "b")) == 6
        assert metrics["cosine_to_start"] > 0.5  # the space is turned back to that of its start
        more = arguments(corpus, tmp_path / "c", init_from=tmp_path / "a/final")
        assert "cosine_to_start" not in script.main([*more, "--no-keep-space"])
        whole = arguments(corpus, tmp_path / "d", init_from=tmp_path / "a/final", start_share=1.0)
        script.main(whole)
        start, kept = (RealTimeJazzStyleEncoder.from_pretrained(tmp_path / n / "final") for n in "ad")
        assert all(map(torch.equal, start.parameters(), kept.parameters()))
        one, two = ((tmp_path / n / "final" / "tokenizer.json").read_text() for n in "ac")
        assert one == two

    def test_bad_input(self, script, corpus, tmp_path, capsys):
        for extra, message in [
            (["--size", "huge"], "mini or base"),
            (["--batch-size", "1"], "at least 2"),
            (["--min-crop-seconds", "2.0"], "min_crop_seconds"),
            (["--start-share", "1.5"], "start_share must be in 0..1"),
            (["--data", ""], "--data"),
        ]:
            with pytest.raises(SystemExit) as exit_info:
                script.main([*arguments(corpus, tmp_path / "c"), *extra])
            assert exit_info.value.code == 2
            assert message in capsys.readouterr().err
        assert not (tmp_path / "c").exists()


class TestCaptions:
    def test_short_prompts_are_true_and_repeatable(self, script):
        sheet = random_lead_sheet(np.random.default_rng(3), genre="bossa")
        prompts = [short_prompt(sheet, np.random.default_rng(seed)) for seed in range(200)]
        assert prompts == [short_prompt(sheet, np.random.default_rng(seed)) for seed in range(200)]
        assert 0.3 < np.mean(["bossa" in prompt for prompt in prompts]) < 0.95
        assert not any("_" in prompt or "Bill Evans" in prompt for prompt in prompts)

    def test_players_stand_for_what_plays(self, script):
        sheet = LeadSheet.from_chart(
            "Dm7 | % | % | %", genre="modal", instruments=["piano", "bass", "brushes"]
        )
        prompts = " ".join(short_prompt(sheet, np.random.default_rng(seed)) for seed in range(300))
        assert "Bill Evans" in prompts
        assert "Coltrane" not in prompts
