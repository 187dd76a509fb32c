"""training/distill_flow.py through `main()`: distilled, resumed, distilled again, made a pipeline."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from scripts import load_script
from synthetic_takes import write_takes
from test_training_scripts import log, options, refused, same_logs, same_weights

from rtjazz_hf import RealTimeJazzFlowTransformer
from rtjazz_hf.corpus.dataset import load_takes
from rtjazz_hf.corpus.latent_filling import embed_takes, encode_takes

pytest.importorskip("tensorboard")
pytest.importorskip("yaml")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def script():
    return load_script("distill_flow")


@pytest.fixture(scope="module")
def parts(tiny_pipeline, tiny_folder, tmp_path_factory) -> Path:
    """A folder with the store of some takes and the parts of the tiny pipeline."""
    folder = tmp_path_factory.mktemp("parts")
    takes = load_takes(write_takes(folder / "corpus"))
    encode_takes(tiny_pipeline.codec, takes, folder / "latents", progress=False)
    embed_takes(
        tiny_pipeline.style_encoder, tiny_pipeline.tokenizer, takes, folder / "latents", progress=False
    )
    shutil.copytree(tiny_folder, folder / "pipe")
    return folder


def distill_options(parts: Path, out: Path, **values) -> list[str]:
    settings = {"data": parts / "latents", "codec": parts / "pipe", "teacher": parts / "pipe", "output_dir": out,
                "crop_frames": 72, "full_attention_rate": 0.3, "teacher_steps": 4, "steps": 2,
                "shift": 2.0}  # fmt: skip
    return options(**{**settings, **values})


@pytest.fixture(scope="module")
def whole(script, parts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("distilled") / "run"
    script.main(distill_options(parts, out, validate_every=3, sample_every=6))
    return out


def test_ends_with_a_flow_that_says_how_it_is_played(whole, tiny_pipeline):
    model, info = RealTimeJazzFlowTransformer.from_pretrained(whole / "final", output_loading_info=True)
    assert not any(info.values())
    assert model.config.sampling_defaults == {"num_inference_steps": 2, "guidance_scale": 1.0, "shift": 2.0}
    assert not torch.equal(model.head.proj.weight, tiny_pipeline.transformer.head.proj.weight)
    card = (whole / "final" / "README.md").read_text()
    assert "2 steps, shift 2 and guidance_scale 1" in card and "teacher_steps: 4" in card


def test_logs_and_samples(whole):
    rows = [row for row in log(whole) if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all({"loss_step_0", "loss_step_1", "grad_norm"} <= set(row) for row in rows)
    validations = [row for row in log(whole) if "val_end" in row]
    assert [row["step"] for row in validations] == [1, 3, 6]  # 1: where it began
    assert {"val_deviation", "val_teacher_end", "val_teacher_deviation"} <= set(validations[0])
    samples = {path.name for path in (whole / "samples" / "step-00000006").iterdir()}
    assert samples == {"sample_0.flac", "sample_0.png"}


def test_stopped_and_resumed_equals_uninterrupted(whole, script, parts, tmp_path):
    for stop in (3, 6):
        script.main(distill_options(parts, tmp_path / "again", validate_every=3, max_steps=stop))
    assert same_logs(tmp_path / "again", whole)
    assert same_weights(RealTimeJazzFlowTransformer, tmp_path / "again", whole)


def test_a_distilled_flow_is_distilled_again(whole, script, parts, tmp_path, capsys):
    own = {"teacher": whole / "final", "teacher_steps": "none", "shift": "none"}
    script.main(distill_options(parts, tmp_path / "one", **{**own, "steps": 1, "max_steps": 1}))
    assert "2 steps with guidance 1 to 1 without, shift 2" in capsys.readouterr().out
    model = RealTimeJazzFlowTransformer.from_pretrained(tmp_path / "one" / "final")
    assert (model.config.distilled_steps, model.config.distilled_shift) == (1, 2.0)
    # from another start than the teacher
    typed = distill_options(parts, tmp_path / "b", **{**own, "init_from": parts / "pipe", "max_steps": 1})
    script.main(typed)


def test_bad_input_is_one_line(script, parts, tmp_path, capsys):
    out = tmp_path / "x"
    assert "--teacher" in refused(script, distill_options(parts, out, teacher=""), capsys)
    nowhere = tmp_path / "nowhere"
    assert str(nowhere) in refused(script, distill_options(parts, out, teacher=nowhere), capsys)
    assert "it must divide the teacher's 4" in refused(script, distill_options(parts, out, steps=3), capsys)
    assert "holds a model of type" in refused(
        script, distill_options(parts, out, teacher=parts / "pipe" / "codec"), capsys
    )
    assert not out.exists()
