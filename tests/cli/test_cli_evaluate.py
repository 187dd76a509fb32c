"""`rtjazz evaluate`: what it refuses before a model is read, a part, and the scores of a listening test."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from pathlib import Path

import pytest

from rtjazz_hf import cli
from rtjazz_hf.cli import evaluate as cli_evaluate


@pytest.fixture
def refused(capsys, monkeypatch, tmp_path):
    """Run a command line that must be refused, in an empty folder; what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_evaluate, "load_pipeline", lambda args: pytest.fail("a model was read"))

    def run(*arguments: str) -> str:
        assert cli.main(["evaluate", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("rtjazz: error: ") and err.count("\n") == 1
        return err

    return run


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--takes", "no"], "prepare_corpus"),
        (["--only", "beauty"], "codec, flow"),
        (["--num-takes", "0"], "--num-takes 0"),
        (["--mos-takes", "0"], "--mos-takes 0"),
        (["--duration", "0"], "--duration 0"),
        (["--long-duration", "1"], "--long-duration 1"),
        (["--long-duration", "nan"], "--long-duration nan"),
        (["--steps", "0"], "--steps 0"),
        (["--guidance", "-1"], "--guidance -1"),
        (["--reference", "teacher"], "--only steps"),
        (["--key", "key.json"], "belong together"),
        (["--score-mos", "a.json"], "belong together"),
        (["--score-mos", "a.json", "--key", "key.json"], "no key 'key.json'"),
    ],
)
def test_refusals(refused, arguments, words):
    assert words in refused("--out", "out", *arguments)
    assert os.listdir() == []


def test_without_out(refused):
    assert "--out" in refused("--only", "speed")


def test_a_listening_test_is_not_replaced(refused, tmp_path):
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "key.json").write_text("{}")
    assert "already" in refused("--out", "out", "--mos", "test")


def test_the_parts_are_those_of_the_report():
    from rtjazz_hf.evaluation.parts import DEFAULT_PARTS, PARTS

    assert cli_evaluate.EVALUATION_PARTS == PARTS
    assert set(PARTS) - set(DEFAULT_PARTS) == set(cli_evaluate.ASKED_FOR_BY_NAME)


def test_speed(capsys, monkeypatch, tmp_path, tiny_folder):
    monkeypatch.chdir(tmp_path)
    arguments = ["--model", str(tiny_folder), "--out", "out", "--only", "speed", "--json", "--device", "cpu"]
    assert cli.main(["evaluate", *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["speed"] and report["table"]
    assert json.loads(Path("out/report.json").read_text()) == report


def test_a_reference_is_a_pipeline_or_a_flow_alone(tiny_folder):
    args = Namespace(model=str(tiny_folder), device="cpu", dtype="float32", reference=str(tiny_folder))
    pipe = cli_evaluate.load_pipeline(args)
    whole = cli_evaluate._load_reference(args, pipe)
    assert whole.config.num_inference_steps == 2 and whole.codec is not pipe.codec
    args.reference = str(tiny_folder / "transformer")
    flow = cli_evaluate._load_reference(args, pipe)
    assert flow.codec is pipe.codec and flow.transformer is not pipe.transformer
    assert flow.config.guidance_scale == 2.0  # as a flow that is not distilled
    assert flow.config._name_or_path == args.reference and pipe.config.num_inference_steps == 2
    args.reference = str(tiny_folder / "codec")
    with pytest.raises(ValueError, match="not a transformer"):
        cli_evaluate._load_reference(args, pipe)
    pipe.transformer.config.latent_dim = 32
    args.reference = str(tiny_folder / "transformer")
    with pytest.raises(ValueError, match=r"num_channels 64, that of .* 32"):
        cli_evaluate._load_reference(args, pipe)


def test_scores_of_a_listening_test(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    clips = {f"clip-{n}": {"kind": kind, "item": "one"} for n, kind in ((1, "generated"), (2, "held_out"))}
    key = {"format": "rtjazz-listening-1", "kit": "k", "scales": ["quality"], "clips": clips}
    result = {"format": "rtjazz-listening-1", "kit": "k", "listener": "a",
              "ratings": {"clip-1": {"quality": 3}, "clip-2": {"quality": 5}}}  # fmt: skip
    Path("key.json").write_text(json.dumps(key))
    Path("a.json").write_text(json.dumps(result))
    assert cli.main(["evaluate", "--score-mos", "a.json", "--key", "key.json", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["scores"]["held_out"]["quality"]["mean"] == 5.0
    assert "1 listeners" in err and "held out" in err
