"""From `rtjazz adapt` to hearing the style: the folder that it wrote is what the other commands take."""

from __future__ import annotations

import json
import shlex
import shutil

import numpy as np
import pytest
import soundfile
from tiny_models import make_adapter

pytest.importorskip("peft", reason="peft makes the adapters (the train extra)")

from rtjazz_hf import cli
from rtjazz_hf.cli import adapt as cli_adapt
from rtjazz_hf.server.app import load_adapters


@pytest.fixture
def styles(tmp_path, monkeypatch):
    """An empty folder but for `my-style`, as `rtjazz adapt` leaves it, and `b`."""
    monkeypatch.chdir(tmp_path)
    make_adapter(tmp_path / "my-style" / "adapter", 1, style_name="me")
    (tmp_path / "my-style" / "takes").mkdir()
    make_adapter(tmp_path / "b", 2)


@pytest.fixture
def run(tiny_folder, styles, capsys):
    def run(command, *arguments, prompt="swing"):
        base = [command, prompt, "--model", str(tiny_folder), "--duration", "0.2", "--device", "cpu", "--seed", "1"]
        code = cli.main([*base, *arguments])
        return code, *capsys.readouterr()

    return run


def test_generate_plays_it(run):
    heard = {}
    for name, options in {
        "bare": [], "one": ["--adapter", "my-style/"], "inner": ["--adapter", "my-style/adapter"],
        "half": ["--adapter", "my-style=0.5"], "both": ["--adapter", "my-style", "--adapter", "b=-1"],
    }.items():  # fmt: skip
        code, out, err = run("generate", "-o", f"{name}.wav", "--json", *options)
        assert code == 0, err
        assert len(json.loads(out)["adapters"]) == len(options) // 2
        heard[name] = soundfile.read(f"{name}.wav")[0].tobytes()
    assert heard["one"] == heard["inner"] and len(set(heard.values())) == 4
    assert json.loads(out)["adapters"] == {"my-style": 1.0, "b": -1.0} and json.loads(out)["instruments"]
    code, _, err = run("generate", "-o", "x.wav", "--adapter", "my-style", prompt="swing in the style of me")
    assert code == 0 and "clarinet" in err and '"in the style of me"' in err  # its band


def test_generate_sounds_like_a_recording(run, tmp_path):
    soundfile.write("trio.wav", 0.1 * np.random.default_rng(0).standard_normal((44_100, 2)), 44_100)
    assert run("generate", "-o", "bare.wav")[0] == 0
    code, out, err = run("generate", "-o", "like.wav", "--like", "trio.wav", "--json")
    assert code == 0 and json.loads(out)["like"] == "trio.wav" and json.loads(out)["prompt"] == "swing", err
    assert soundfile.read("bare.wav")[0].tobytes() != soundfile.read("like.wav")[0].tobytes()
    code, _, err = run("generate", "-o", "x.wav", "--like", "nowhere.wav")
    assert code == 2 and "nowhere.wav" in err


def test_play_plays_it(run):
    for name, options in {"bare": [], "one": ["--adapter", "my-style/"], "two": ["--adapter", "b"]}.items():
        code, _, err = run("play", "--output", f"{name}.wav", "--no-display", *options)
        assert code == 0, err
    heard = {soundfile.read(f"{name}.wav")[0].tobytes() for name in ("bare", "one", "two")}
    assert len(heard) == 3


@pytest.mark.parametrize("command", ["generate", "play", "evaluate"])
def test_refused(styles, command, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = {"generate": ["-o", "x.wav"], "play": ["--output", "x.wav"], "evaluate": ["--out", "report"]}[command]
    for wrong, words in (("empty", "adapter_config.json"), ("my-style=3", "-2 to 2")):
        arguments = [command, *(["swing"] if command != "evaluate" else []), *out, "--adapter", wrong]
        assert cli.main(arguments) == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "x.wav").exists()


def test_adapt_ends_with_the_command_that_plays_it(styles, tiny_folder, capsys, monkeypatch, tmp_path):
    (tmp_path / "takes").mkdir()

    def learnt(config):
        assert config.instruments == ["piano", "bass", "drums"]
        return {"adapter": "my-style/adapter", "minutes": 3.0, "minutes_learnt": 2.0, "minutes_held_out": 1.0}

    monkeypatch.setattr("rtjazz_hf.trainers.adapter.train_lora", learnt)  # the loop has its own tests
    monkeypatch.setattr(cli_adapt, "_TAKE_SECONDS", 0.2)
    code = cli.main(["adapt", "takes", "-o", "my-style", "--model", str(tiny_folder), "--json", "--device", "cpu"])
    out, err = capsys.readouterr()
    assert code == 0 and "nobody said who plays" in err and "2.0 minutes" in err and "1.0 were held out" in err
    result = json.loads(out)
    assert result["instruments"] == ["piano", "bass", "drums"]  # this model has no probe
    assert np.abs(soundfile.read(result["take"])[0]).max() > 0
    program, *arguments = shlex.split(result["play"])
    assert program == "rtjazz" and result["play"] in err
    assert cli.main([*arguments, "--output", "played.wav", "--duration", "0.2", "--no-display"]) == 0
    assert soundfile.info("played.wav").frames > 0


def test_the_band_is_heard_where_nobody_names_it(tiny_folder, tmp_path):
    from rtjazz_hf.evaluation.measures.embeddings import TowerEmbedder
    from rtjazz_hf.evaluation.measures.instrument_probe import PROBE_NAME, InstrumentProbe, tower_signature
    from rtjazz_hf.hub import load_style_encoder
    from rtjazz_hf.trainers.heard_band import hear_band

    base = shutil.copytree(tiny_folder, tmp_path / "base")
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal((48_000, 2)), 48_000)
    (tmp_path / "b.wav").write_bytes(b"none")  # is told of elsewhere
    assert hear_band(tmp_path, str(base)) is None
    embedder = TowerEmbedder(*load_style_encoder(base))
    signature = tower_signature(embedder)
    heard = {"piano": 1.0, "guitar": -1.0, "bass": 1.0, "drums": 1.0, "brushes": 2.0}
    weight, bias = np.zeros((5, len(signature)), np.float32), np.array(list(heard.values()), np.float32)
    probe = InstrumentProbe(tuple(heard), weight, bias, np.zeros(5, np.float32), signature)
    probe.save(base / "style_encoder" / PROBE_NAME)
    assert hear_band(tmp_path, str(base)) == ["piano", "bass", "brushes"]  # one of two kits


def test_serve_takes_it(styles, tiny_pipeline, tmp_path, caplog):
    try:
        load_adapters(tiny_pipeline, tmp_path / "my-style")
        assert tiny_pipeline.list_adapters() == ["my-style"]
        tiny_pipeline.unload_lora_weights()
        load_adapters(tiny_pipeline, tmp_path)
        assert tiny_pipeline.list_adapters() == ["b", "my-style"] and not caplog.records
    finally:
        tiny_pipeline.unload_lora_weights()
