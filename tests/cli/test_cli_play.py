"""`rtjazz play` into files and pipes: recordings that outlive SIGKILL, and what is refused."""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from sound_cards import Card

from rtjazz_hf import cli
from rtjazz_hf.audio import read_audio
from rtjazz_hf.cli import play as cli_play
from rtjazz_hf.live.outputs import PipeOutput, to_pcm
from rtjazz_hf.live.recording import Recorder

CHART = "Dm7 | G7 | Cmaj7 | %"


class TestFile:
    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
    def test_at_real_time_pace(self, play, suffix):
        begun = time.perf_counter()
        code, out, err = play("--output", f"a.{suffix}", "--duration", "1.0", "--seed", "3", "--json")
        assert code == 0 and time.perf_counter() - begun >= 1.0
        assert soundfile.info(f"a.{suffix}").frames == 48_000
        result = json.loads(out)
        assert result["duration"] == 1.0 and result["seed"] == 3 and result["recording"] == f"a.{suffix}"
        assert "played 1.00 s" in err and os.listdir() == [f"a.{suffix}"]

    def test_same_as_the_session(self, play, tiny_pipeline):
        play("--output", "a.wav", "--duration", "0.96", "--seed", "3", "--chords", CHART, "--tempo", "140")
        session = tiny_pipeline.live(
            "swing", chords=CHART, tempo=140, seed=3, num_inference_steps=1, guidance_scale=1.0
        )
        want = np.concatenate([next(session).audio for _ in range(2)], axis=1)
        np.testing.assert_allclose(read_audio("a.wav"), want, atol=1e-3)

    def test_at_a_loudness(self, play):
        pytest.importorskip("pyloudnorm", reason="loudness (the eval extra)")
        for name, lufs in (("quiet", -40), ("loud", -8)):
            assert (
                play("--output", f"{name}.wav", "--duration", "1.0", "--seed", "3", f"--loudness={lufs}")[0]
                == 0
            )
        assert np.abs(read_audio("loud.wav")).mean() > np.abs(read_audio("quiet.wav")).mean()

    def test_count_in(self, play):
        code, _, _ = play("--output", "a.wav", "--duration", "0.2", "--count-in", "1", "--tempo", "320")
        assert code == 0
        audio = read_audio("a.wav")
        beat = 9_000
        assert audio.shape[1] == 4 * beat + 9_600
        for number in range(4):  # a click on every beat, silence before the next
            assert np.abs(audio[:, number * beat : number * beat + 500]).max() > 0.1
            assert np.abs(audio[:, number * beat + 6_000 : (number + 1) * beat - 1]).max() < 1e-3


class TestRecording:
    @pytest.mark.parametrize(
        "suffix", ["flac", *(pytest.param(name, marks=pytest.mark.slow) for name in ("wav", "ogg"))]
    )
    def test_outlives_sigkill(self, tiny_folder, tmp_path, suffix):
        path = tmp_path / f"a.{suffix}"
        command = [sys.executable, "-m", "rtjazz_hf.cli", "play", "swing", "--model", str(tiny_folder), "--steps", "1",
                   "--output", str(path), "--device", "cpu"]  # fmt: skip
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            while not path.exists():
                assert process.poll() is None, process.stderr.read()
                time.sleep(0.02)
            begun = time.perf_counter()
            time.sleep(2.5)
            process.send_signal(signal.SIGKILL)
            played = time.perf_counter() - begun
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
        audio = read_audio(path)
        assert audio.shape[1] / 48_000 > played - 1.0 and np.abs(audio[:, -24_000:]).max() > 0

    @pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
    def test_is_whole_after_every_write(self, tmp_path, suffix):
        path, rng = tmp_path / f"a.{suffix}", np.random.default_rng(0)
        recorder = Recorder(path)
        assert not path.exists()
        for number in range(1, 5):
            recorder.write(rng.normal(0, 0.1, (2, 30_000)).astype(np.float32))
            there = read_audio(path).shape[1]
            assert number * 30_000 - (24_000 if suffix == "ogg" else 4_608) <= there <= number * 30_000
        recorder.close()
        recorder.close()
        assert read_audio(path).shape[1] == 120_000 == recorder.samples
        assert [each.name for each in tmp_path.iterdir()] == [path.name]

    def test_never_costs_what_was_there(self, play):
        Path("a.wav").write_text("precious")
        code, _, err = play("--output", "a.wav", "--duration", "0.1")
        assert code == 2 and "--overwrite" in err and Path("a.wav").read_text() == "precious"
        code, _, _ = play(
            "--output", "a.wav", "--overwrite", "--duration", "0.1", "--adapter", "me/unheard-of"
        )
        assert code != 0 and Path("a.wav").read_text() == "precious"
        assert play("--output", "a.wav", "--overwrite", "--duration", "0.1")[0] == 0
        assert soundfile.info("a.wav").frames == 4_800

    def test_ctrl_c(self, tiny_folder, tmp_path, monkeypatch):
        from rtjazz_hf.live.session import LiveSession

        made = []
        ask = LiveSession.__next__

        def interrupted(session):
            made.append(1)
            if len(made) == 3:
                raise KeyboardInterrupt
            return ask(session)

        with monkeypatch.context() as patch:
            patch.setattr(LiveSession, "__next__", interrupted)
            path = tmp_path / "a.wav"
            command = ["play", "swing", "--model", str(tiny_folder), "--device", "cpu", "--output", str(path)]
            assert cli.main(command) == 130
        assert soundfile.info(path).frames == 2 * 23_040

    @pytest.mark.parametrize("suffix", ["wav", "flac"])
    def test_a_full_disk(self, tmp_path, suffix):
        resource = pytest.importorskip("resource")
        recorder = Recorder(tmp_path / f"a.{suffix}")
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        noise = np.random.default_rng(0).normal(0, 0.1, (2, 9_600)).astype(np.float32)
        recorder.write(noise)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))
            with pytest.raises(OSError, match="cannot be written"):
                for _ in range(20):
                    recorder.write(noise)
            recorder.close()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert read_audio(recorder.path).shape[1] > recorder.samples - 4_800

    def test_a_wav_that_is_too_long(self, tmp_path, monkeypatch):
        monkeypatch.setattr("rtjazz_hf.live.recording._WAV_LIMIT", 8_000)
        recorder = Recorder(tmp_path / "a.wav")
        recorder.write(np.zeros((2, 1_000), dtype=np.float32))
        with pytest.raises(OSError, match="record a flac"):
            recorder.write(np.zeros((2, 2_000), dtype=np.float32))
        recorder.close()
        assert soundfile.info(tmp_path / "a.wav").frames == 1_000


class TestPipe:
    @pytest.mark.parametrize(("pcm", "kind"), [("s16le", "<i2"), ("f32le", "<f4")])
    def test_pcm_on_stdout(self, tiny_folder, pcm, kind, monkeypatch, capsys):
        """Where stdout is a stream of bytes in memory; a real pipe: `test_closed_streams`."""
        stdout = io.TextIOWrapper(io.BytesIO())
        command = ["play", "swing", "--model", str(tiny_folder), "--device", "cpu", "--steps", "1",
                   "--output", "-", "--pcm", pcm, "--duration", "0.7", "--seed", "1"]  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stdout)
            code = cli.main(command)
        err = capsys.readouterr().err
        assert code == 0 and "played 0.70 s" in err, err
        samples = np.frombuffer(stdout.buffer.getvalue(), dtype=kind)
        assert len(samples) == 2 * 33_600 and np.abs(samples.astype(np.float64)).max() > 0

    def test_formats(self):
        audio = np.array([[0.0, 1.5, -1.0], [0.5, -2.0, 0.25]], dtype=np.float32)
        assert np.frombuffer(to_pcm(audio, "s16le"), "<i2").tolist() == [
            0,
            16384,
            32767,
            -32767,
            -32767,
            8192,
        ]
        assert np.frombuffer(to_pcm(audio, "f32le"), "<f4").tolist() == [0.0, 0.5, 1.5, -2.0, -1.0, 0.25]
        with pytest.raises(ValueError, match="choose from s16le, f32le"):
            PipeOutput(sys.stdout, "s24le")


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--output", "a.mp4"], ".mp4"),
            (["--output", "missing/a.wav"], "missing"),
            (["--output", "a.wav", "--record", "b.wav"], "leave --record out"),
            (["--output", "-", "--json"], "both want stdout"),
            (["--output", "a.wav", "--sound-card", "0"], "goes to one of them"),
            (["--output", "a.wav", "--duration", "0"], "--duration 0"),
            (["--output", "a.wav", "--duration", "nan"], "--duration nan"),
            (["--output", "a.wav", "--tempo", "500"], "tempo 500"),
            (["--output", "a.wav", "--chords", "Hm7"], "Hm7"),
            (["--output", "a.wav", "--instruments", "kazoo"], "kazoo"),
            (["--output", "a.wav", "--count-in", "9"], "--count-in 9"),
            (["--output", "a.wav", "--buffer", "0"], "--buffer 0"),
            (["--output", "a.wav", "--clock-offset", "nan"], "--clock-offset nan"),
            (["--output", "a.wav", "--block-frames", "7"], "6, 12, 24, 36, 48"),
            (["--output", "a.wav", "--steps", "0"], "--steps 0"),
            (["--output", "a.wav", "--start-stop"], "--start-stop is for --follow link"),
        ],
    )
    def test_is_named(self, play, monkeypatch, arguments, words):
        monkeypatch.setattr(cli_play, "load_pipeline", lambda args: pytest.fail("a model was read"))
        code, out, err = play(*arguments)
        assert (code, out) == (2, "") and words in err and err.count("\n") == 1 and os.listdir() == []

    def test_closed_streams(self, tiny_folder, tmp_path):
        """Nobody takes the places of stdin and stderr, and the music goes into the pipe."""
        command = f"exec {sys.executable} -m rtjazz_hf.cli play swing --model {tiny_folder} --device cpu"
        command += " --steps 1 --guidance 1 --duration 0.2 --output - <&- 2>&-"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=120)
        assert done.returncode == 0 and os.listdir(tmp_path) == []
        samples = np.frombuffer(done.stdout, dtype="<i2")
        assert len(samples) == 2 * 9_600 and np.abs(samples.astype(np.float64)).max() > 0

    @pytest.mark.slow
    @pytest.mark.parametrize("closed", ["<&- 2>&-", "<&-"])
    def test_closed_streams_beside_a_file(self, tiny_folder, tmp_path, closed):
        command = f"exec {sys.executable} -m rtjazz_hf.cli play swing --model {tiny_folder} --device cpu"
        command += f" --steps 1 --guidance 1 --duration 0.2 --json --output a.wav {closed}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["duration"] == pytest.approx(0.2)
        assert soundfile.info(tmp_path / "a.wav").frames == 9_600

    def test_a_closed_stdout_takes_no_music(self, play, monkeypatch):
        monkeypatch.setattr(sys, "stdout", None)  # as Python has it where the stream is closed
        code, _, err = play("--output", "-")
        assert code == 2 and "standard output is closed" in err and os.listdir() == []

    def test_no_prompt(self, play):
        assert play(prompt=" ")[0] == 2

    def test_lists_devices(self, capsys):
        assert cli_play.run_play(argparse.Namespace(list_devices=True), sound_api=Card()) == 0
        out = capsys.readouterr().out
        assert "0: Speakers" in out and "MIDI inputs" in out
