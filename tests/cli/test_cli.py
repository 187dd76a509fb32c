"""The `rtjazz` command: files, exit codes, one-line errors, and nothing half-written."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from rtjazz_hf import cli


@pytest.fixture
def generate(tiny_folder, tmp_path, monkeypatch, capsys):
    """Run `rtjazz generate` on the tiny pipeline in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, prompt: str = "swing") -> tuple[int, str, str]:
        base = ["generate", prompt, "--model", str(tiny_folder), "--duration", "0.5", "--device", "cpu"]
        code = cli.main([*base, *arguments])
        return code, *capsys.readouterr()

    return run


class TestGenerate:
    @pytest.mark.parametrize(
        ("name", "file_format"), [("out.wav", "WAV"), ("out.flac", "FLAC"), ("out.ogg", "OGG")]
    )
    def test_writes_by_suffix(self, generate, name, file_format):
        code, out, err = generate("-o", name, "--seed", "5")
        assert (code, out) == (0, "")
        info = soundfile.info(name)
        assert (info.samplerate, info.channels, info.format) == (48_000, 2, file_format)
        assert abs(info.frames - 24_000) <= 64
        assert os.listdir() == [name]
        assert err.count("\n") == 1 and "real-time factor" in err and "seed 5" in err and "BPM" in err

    def test_same_seed_same_music_and_json(self, generate):
        results = []
        for name in ("a.wav", "b.wav"):
            code, out, _ = generate(
                "-o", name, "--seed", "5", "--chords", "Dm7 | G7", "--tempo", "99", "--json"
            )
            assert code == 0
            results.append(json.loads(out))
        assert np.array_equal(*(soundfile.read(name)[0] for name in ("a.wav", "b.wav")))
        assert results[0]["seed"] == 5 and results[0]["tempo"] == 99 and results[0]["sampling_rate"] == 48_000
        assert results[0]["chart"].startswith("4/4") or results[0]["chart"].startswith("Dm7")

    def test_seed_is_drawn_and_told(self, generate):
        _, first, _ = generate("-o", "a.wav", "--json")
        _, second, _ = generate("-o", "b.wav", "--json")
        one, two = json.loads(first)["seed"], json.loads(second)["seed"]
        assert one != two
        generate("-o", "c.wav", "--seed", str(one))
        assert np.array_equal(soundfile.read("a.wav")[0], soundfile.read("c.wav")[0])

    def test_codes_and_plot(self, generate):
        pytest.importorskip("matplotlib")
        from rtjazz_hf.codec import read_codes

        code, _, _ = generate("-o", "a.wav", "--codes", "a.rtj", "--plot", "a.png", "--seed", "3")
        assert code == 0 and sorted(os.listdir()) == ["a.png", "a.rtj", "a.wav"]
        file = read_codes("a.rtj")
        assert (file.num_codebooks, file.frames, file.samples) == (4, 38, soundfile.info("a.wav").frames)
        assert file.notes == {"prompt": "swing", "seed": "3"}
        assert Path("a.png").read_bytes().startswith(b"\x89PNG")

    def test_every_option(self, generate):
        code, out, _ = generate(
            "-o", "a.wav", "--key", "Bb", "--mood", "dark", "--instruments=-piano", "--steps", "1",
            "--guidance", "1", "--dtype", "bfloat16", "--json",
        )  # fmt: skip
        assert code == 0
        result = json.loads(out)
        assert (result["key"], result["mood"]) == ("Bb", "dark")

    def test_overwrite(self, generate):
        Path("a.wav").write_text("precious")
        code, _, err = generate("-o", "a.wav")
        assert code == 2 and "--overwrite" in err and Path("a.wav").read_text() == "precious"
        assert generate("-o", "a.wav", "--overwrite")[0] == 0
        assert soundfile.info("a.wav").channels == 2


class TestRefusals:
    """Exit code 2, one line that names the input, nothing written, and no model read."""

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["-o", "a.mp4"], ".mp4"),
            (["-o", "a"], ".wav"),
            (["-o", "."], "folder"),
            (["-o", "missing/a.wav"], "missing"),
            (["-o", "a.wav", "--duration", "0"], "--duration 0"),
            (["-o", "a.wav", "--duration", "-3"], "--duration -3"),
            (["-o", "a.wav", "--duration", "nan"], "--duration nan"),
            (["-o", "a.wav", "--duration", "601"], "600"),
            (["-o", "a.wav", "--duration", "long"], "long"),
            (["-o", "a.wav", "--chords", "Hm7"], "Hm7"),
            (["-o", "a.wav", "--chords", "|: Dm7 | G7"], "repeat"),
            (["-o", "a.wav", "--chords", "7/5 Dm7"], "7/5"),
            (["-o", "a.wav", "--tempo", "400"], "tempo 400"),
            (["-o", "a.wav", "--key", "H"], "'H'"),
            (["-o", "a.wav", "--mood", "grumpy"], "grumpy"),
            (["-o", "a.wav", "--instruments", "kazoo"], "kazoo"),
            (["-o", "a.wav", "--steps", "0"], "--steps 0"),
            (["-o", "a.wav", "--guidance", "-1"], "--guidance -1"),
            (["-o", "a.wav", "--seed", "-1"], "'-1'"),
            (["-o", "a.wav", "--dtype", "int8"], "int8"),
            (["-o", "a.wav", "--codes", "a.safetensors"], ".rtj"),
            (["-o", "a.wav", "--plot", "a.txt"], ".txt"),
            (["-o", "a.wav", "--frobnicate"], "frobnicate"),
            ([], "-o"),
        ],
    )
    def test_is_named(self, generate, monkeypatch, arguments, words):
        monkeypatch.setattr("rtjazz_hf.cli.generate.load_pipeline", lambda args: pytest.fail("a model was read"))
        code, out, err = generate(*arguments)
        assert (code, out) == (2, "")
        assert err.startswith("rtjazz: error: ") and err.count("\n") == 1 and words in err
        assert os.listdir() == []

    def test_empty_prompt(self, generate):
        code, _, err = generate("-o", "a.wav", prompt="  ")
        assert code == 2 and "prompt is empty" in err

    def test_folder_that_cannot_be_written(self, generate, tmp_path):
        if os.geteuid() == 0:
            pytest.skip("root may write everywhere")
        tmp_path.chmod(0o500)
        code, _, err = generate("-o", "a.wav")
        tmp_path.chmod(0o700)
        assert code == 2 and "cannot be written" in err

    def test_unknown_device(self, generate):
        code, _, err = generate("-o", "a.wav", "--device", "abacus")
        assert code == 2 and "--device abacus" in err


class TestFailures:
    @pytest.mark.parametrize("model", ["me/unheard-of", "./nowhere", "no such name"])
    def test_unknown_model(self, generate, model):
        code, _, err = generate("-o", "a.wav", "--model", model)
        assert code == 1 and err.startswith("rtjazz: error: ") and err.count("\n") == 1
        assert model in err and "rtjazz-mini" in err and os.listdir() == []

    def test_interrupt_leaves_nothing(self, generate, monkeypatch):
        from rtjazz_hf.live.engine import BlockStream

        def interrupt(*args, **kwargs):
            raise KeyboardInterrupt

        monkeypatch.setattr(BlockStream, "denoise", interrupt)
        code, _, err = generate("-o", "a.wav")
        assert code == 130 and "interrupted" in err and os.listdir() == []

    def test_debug_shows_the_traceback(self, generate):
        with pytest.raises(OSError, match="nowhere"):
            generate("-o", "a.wav", "--model", "./nowhere", "--debug")


class TestHelp:
    @pytest.mark.parametrize("command", [[], ["generate"], ["play"], ["evaluate"], ["codec"]])
    def test_has_an_example(self, capsys, command):
        assert cli.main([*command, "--help"]) == 0
        out = capsys.readouterr().out
        assert "example:\n  rtjazz " in out

    def test_version(self, capsys):
        assert cli.main(["--version"]) == 0
        assert capsys.readouterr().out == f"rtjazz {cli.__version__}\n"

    def test_no_command(self, capsys):
        assert cli.main([]) == 2
        assert capsys.readouterr().err.startswith("rtjazz: error: ")
