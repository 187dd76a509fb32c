"""`rtjazz codec encode | decode | compare` on the tiny pipeline, in an empty folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from rtjazz_hf import cli
from rtjazz_hf.audio import read_audio
from rtjazz_hf.cli import codec as cli_codec
from rtjazz_hf.codec import RealTimeJazzCodec, read_codes, write_codes
from rtjazz_hf.codec.code_file import CODE_SUFFIX
from rtjazz_hf.codec.quantizer import MAX_CODEBOOKS


def write_take(path: str = "take.wav", samples: int = 48_000, rate: int = 48_000, channels: int = 2) -> str:
    time = np.arange(samples) / rate
    tone = 0.2 * np.sin(2 * np.pi * 440 * time) * np.exp(-3 * (time % 0.5))
    noise = 0.01 * np.random.default_rng(0).standard_normal((samples, channels))
    soundfile.write(path, tone[:, None] + noise, rate)
    return path


@pytest.fixture
def codec(tiny_folder, tmp_path, monkeypatch, capsys):
    """Run `rtjazz codec ...`: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(part: str, *arguments: str, model: str | Path = tiny_folder) -> tuple[int, str, str]:
        code = cli.main(["codec", part, *arguments, "--model", str(model), "--device", "cpu"])
        return code, *capsys.readouterr()

    return run


class TestRoundTrip:
    def test_encode_and_decode(self, codec, tiny_pipeline):
        code, out, err = codec("encode", write_take(samples=50_001), "-o", "take.rtj")
        assert (code, out) == (0, "") and "kbit/s" in err and err.count("\n") == 1
        file = read_codes("take.rtj")
        audio = torch.from_numpy(read_audio("take.wav"))[None]
        assert torch.equal(file.codes, tiny_pipeline.codec.encode(audio).codes[0])

        code, out, _ = codec("decode", "take.rtj", "-o", "received.flac")
        assert (code, out) == (0, "")
        info = soundfile.info("received.flac")
        assert (info.frames, info.samplerate, info.channels) == (50_001, 48_000, 2)
        assert sorted(os.listdir()) == ["received.flac", "take.rtj", "take.wav"]

    def test_json(self, codec):
        _, out, _ = codec("encode", write_take(), "-o", "take.rtj", "--levels", "2", "--json", "--seed", "1")
        result = json.loads(out)
        assert (result["levels"], result["frames"], result["samples"]) == (2, 75, 48_000)
        assert result["bytes"] == Path("take.rtj").stat().st_size and result["bitrate"] == 2 * 6 * 75
        _, out, _ = codec("decode", "take.rtj", "-o", "b.wav", "--json")
        assert json.loads(out)["samples"] == 48_000

    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
    def test_mono_of_another_rate(self, codec, suffix):
        take = write_take(f"take.{suffix}", 44_100, 44_100, channels=1)
        code, _, err = codec("encode", take, "-o", "take.rtj")
        assert code == 0 and "mono" in err and "44100 Hz: resampled" in err
        assert read_codes("take.rtj").samples == read_audio(take).shape[1]

    def test_one_sample(self, codec):
        codec("encode", write_take(samples=1), "-o", "take.rtj")
        assert read_codes("take.rtj").frames == 1
        assert codec("decode", "take.rtj", "-o", "b.wav")[0] == 0
        assert soundfile.info("b.wav").frames == 1

    def test_a_codec_by_itself(self, codec, tiny_folder):
        assert codec("encode", write_take(), "-o", "a.rtj", model=tiny_folder / "codec")[0] == 0
        assert codec("decode", "a.rtj", "-o", "a.wav")[0] == 0  # by the pipeline that it is part of

    def test_codes_of_generate(self, codec, tiny_folder):
        base = ["generate", "swing", "--model", str(tiny_folder), "--device", "cpu", "--duration", "0.5"]
        assert cli.main([*base, "-o", "a.wav", "--codes", "a.rtj"]) == 0
        assert codec("decode", "a.rtj", "-o", "b.wav")[0] == 0
        assert soundfile.info("a.wav").frames == soundfile.info("b.wav").frames

    def test_overwrite(self, codec):
        write_take()
        for part, source, target in (("encode", "take.wav", "a.rtj"), ("decode", "a.rtj", "b.wav")):
            Path(target).write_text("precious")
            code, _, err = codec(part, source, "-o", target)
            assert code == 2 and "--overwrite" in err and Path(target).read_text() == "precious"
            assert codec(part, source, "-o", target, "--overwrite")[0] == 0


class TestRefusals:
    """Exit code 2, one line that names the input, nothing written, and no model read."""

    @pytest.fixture(autouse=True)
    def material(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        write_take()
        write_take("surround.wav", 100, channels=6)
        write_take("empty.wav", 0)
        write_take("cut.wav")
        os.truncate("cut.wav", 50_000)
        Path("text.wav").write_text("no sound")
        Path("text.rtj").write_text("no codes")

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["encode", "gone.wav", "-o", "a.rtj"], "gone.wav"),
            (["encode", ".", "-o", "a.rtj"], "folder"),
            (["encode", "text.wav", "-o", "a.rtj"], "text.wav"),
            (["encode", "cut.wav", "-o", "a.rtj"], "cut short"),
            (["encode", "empty.wav", "-o", "a.rtj"], "no samples"),
            (["encode", "surround.wav", "-o", "a.rtj"], "6 channels; mix it down"),
            (["encode", "take.wav", "-o", "a.safetensors"], ".rtj"),
            (["encode", "take.wav", "-o", "missing/a.rtj"], "missing"),
            (["encode", "take.wav", "-o", "a.rtj", "--levels", "0"], "--levels 0"),
            (["encode", "take.wav", "-o", "a.rtj", "--levels", "33"], "--levels 33"),
            (["encode", "take.wav", "-o", "a.rtj", "--seed", "-1"], "'-1'"),
            (["encode", "take.wav"], "-o"),
            (["decode", "gone.rtj", "-o", "a.wav"], "gone.rtj"),
            (["decode", "text.rtj", "-o", "a.wav"], "not a code file"),
            (["decode", "take.wav", "-o", "a.wav"], "not a code file"),
            (["decode", "text.rtj", "-o", "a.mp4"], ".mp4"),
            (["compare", "text.wav", "-o", "a.png"], "text.wav"),
            (["compare", "take.wav", "-o", "a.txt"], ".txt"),
            (["compare", "take.wav", "-o", "no/folder"], "parent"),
            (["compare", "take.wav", "--seconds", "0"], "--seconds 0"),
            (["compare", "take.wav", "--seconds", "nan"], "--seconds nan"),
            (["compare", "take.wav", "--seconds", "9999"], "600"),
        ],
    )
    def test_is_named(self, monkeypatch, capsys, arguments, words):
        pytest.importorskip("matplotlib")
        monkeypatch.setattr(cli_codec, "_load_codec", lambda args: pytest.fail("a model was read"))
        before = sorted(os.listdir())
        assert cli.main(["codec", *arguments]) == 2
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("rtjazz: error: ") and err.count("\n") == 1 and words in err
        assert sorted(os.listdir()) == before

    def test_too_many_levels_for_this_codec(self, codec):
        code, _, err = codec("encode", "take.wav", "-o", "a.rtj", "--levels", "9")
        assert code == 2 and "--levels 9" in err and not Path("a.rtj").exists()

    def test_codes_of_another_codec(self, codec, tiny_pipeline):
        torch.manual_seed(9)
        other = RealTimeJazzCodec(tiny_pipeline.codec.config)
        write_codes("a.rtj", torch.zeros(4, 5, dtype=torch.long), other, model="me/other")
        code, _, err = codec("decode", "a.rtj", "-o", "a.wav")
        assert code == 2 and "'me/other'" in err and not Path("a.wav").exists()
        assert codec("decode", "a.rtj", "-o", "a.wav", "--any-codebooks")[0] == 0

    @pytest.mark.parametrize(
        ("sample", "words"), [(np.nan, "0.750 s"), (-np.inf, "0.750 s"), (32767.0, "as large as 32767")]
    )
    def test_bad_samples_are_found_on_the_way(self, codec, sample, words):
        pytest.importorskip("matplotlib")
        sound = np.zeros((48_000, 2), np.float32)
        sound[36_000] = sample
        soundfile.write("bad.wav", sound, 48_000, subtype="FLOAT")
        before = sorted(os.listdir())
        for arguments in (["encode", "bad.wav", "-o", "a.rtj"], ["compare", "bad.wav", "-o", "a.png"]):
            code, out, err = codec(*arguments)
            assert (code, out) == (1, "") and "bad.wav" in err and words in err and err.count("\n") == 1
        assert sorted(os.listdir()) == before

    @pytest.mark.parametrize("model", ["me/unheard-of", "./nowhere"])
    def test_unknown_model(self, codec, model):
        code, _, err = codec("encode", "take.wav", "-o", "a.rtj", model=model)
        assert code == 1 and model in err and err.count("\n") == 1

    def test_constants_are_those_of_the_codec(self):
        assert (cli_codec.CODE_SUFFIX, cli_codec.MAX_LEVELS) == (CODE_SUFFIX, MAX_CODEBOOKS)


class TestCompare:
    @pytest.fixture(autouse=True)
    def pictures(self):
        pytest.importorskip("matplotlib")

    def test_folder(self, codec):
        code, out, err = codec("compare", write_take(), "-o", "report", "--levels", "2", "--json")
        assert code == 0 and "pitch correlation" in err and "octave band" in err
        assert sorted(os.listdir("report")) == ["compare.png", "measures.json", "reconstructed.wav"]
        result = json.loads(out)
        assert json.loads(Path("report/measures.json").read_text()) == result
        assert result["levels"] == 2 and set(result["measures"]) == {"latents", "codes"}
        assert {"si_sdr", "mel_distance", "pitch_correlation"} <= set(result["measures"]["codes"])
        assert soundfile.info("report/reconstructed.wav").frames == 48_000
        code, _, err = codec("compare", "take.wav", "-o", "report")
        assert code == 2 and "--overwrite" in err
        assert codec("compare", "take.wav", "-o", "report", "--overwrite")[0] == 0

    def test_picture_of_the_first_seconds(self, codec):
        code, _, err = codec("compare", write_take(samples=96_000), "--seconds", "0.5")
        assert code == 0 and "first 0.5 of 2 seconds" in err
        assert sorted(os.listdir()) == ["take.codec.png", "take.wav"]
        assert Path("take.codec.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.parametrize(("samples", "level"), [(1, 0.0), (24_000, 0.0), (24_000, 0.1)])
    def test_what_cannot_be_measured_is_null(self, codec, samples, level):
        soundfile.write("flat.wav", np.full((samples, 2), level), 48_000)
        code, out, _ = codec("compare", "flat.wav", "-o", "a.png", "--json")
        measures = json.loads(out)["measures"]["codes"]
        assert code == 0 and measures["si_sdr"] is None and measures["mel_distance"] is not None


@pytest.mark.parametrize("part", ["encode", "decode", "compare"])
def test_help_has_an_example(capsys, part):
    assert cli.main(["codec", part, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"example:\n  rtjazz codec {part} " in out and "--seed" in out and "--model" in out
