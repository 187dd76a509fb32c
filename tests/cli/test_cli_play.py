"""`rtjazz play`: outputs, recordings that outlive SIGKILL, keys, and what is said when something is missing or lost."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from rtjazz_hf import cli
from rtjazz_hf.audio import read_audio
from rtjazz_hf.cli import play as cli_play
from rtjazz_hf.live.clock import ClockFollower, MidiClock
from rtjazz_hf.live.outputs import OutputLost, PacedOutput, PipeOutput, SoundCardOutput, grow_buffer, to_pcm
from rtjazz_hf.live.playback import Player, clicks
from rtjazz_hf.live.recording import Recorder
from rtjazz_hf.music.metre import Metre

CHART = "Dm7 | G7 | Cmaj7 | %"
FAST = {"num_inference_steps": 1, "guidance_scale": 1.0, "window_frames": 36}


class Card:
    """PortAudio with one sound card, faster than real time; `lose_after` calls it ends, `hang_after` it is silent."""

    def __init__(self, speed=20.0, lose_after=None, hang_after=None, cards=1):
        self.speed, self.lose_after, self.hang_after, self.cards = speed, lose_after, hang_after, cards
        self.heard: list[np.ndarray] = []

    def query_devices(self):
        return [{"name": "Speakers", "max_output_channels": 2}] * self.cards

    def OutputStream(self, samplerate, channels, dtype, device, callback, finished_callback):
        if not self.cards or device == "Piano":
            raise OSError("Error querying device -1")
        assert (samplerate, channels, dtype) == (48_000, 2, "float32")
        return CardStream(self, callback, finished_callback)


class CardStream:
    latency = 0.01

    def __init__(self, card, callback, finished):
        self.card, self.callback, self.finished = card, callback, finished
        self.ended = threading.Event()

    def start(self):
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        calls = 0
        while not self.ended.wait(480 / 48_000 / self.card.speed):
            calls += 1
            if self.card.hang_after is not None and calls > self.card.hang_after:
                continue
            if self.card.lose_after is not None and calls > self.card.lose_after:
                self.finished()
                return
            out = np.empty((480, 2), dtype=np.float32)
            self.callback(out, 480, SimpleNamespace(outputBufferDacTime=1.01, currentTime=1.0), None)
            self.card.heard.append(out)

    def close(self):
        self.ended.set()


@pytest.fixture
def play(tiny_folder, tmp_path, monkeypatch, capsys):
    """Run `rtjazz play` on the tiny pipeline in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, prompt="swing", card=None, midi=None):
        monkeypatch.setattr(
            cli_play, "run_play", lambda args, run=cli_play.run_play: run(args, sound_api=card, midi=midi)
        )
        base = [
            "play",
            prompt,
            "--model",
            str(tiny_folder),
            "--device",
            "cpu",
            "--steps",
            "1",
            "--guidance",
            "1",
        ]
        code = cli.main([*base, *arguments])
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        return code, *capsys.readouterr()

    return run


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
            assert play("--output", f"{name}.wav", "--duration", "1.0", "--seed", "3", f"--loudness={lufs}")[0] == 0
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
    @pytest.mark.parametrize(
        ("pcm", "kind"), [("s16le", "<i2"), pytest.param("f32le", "<f4", marks=pytest.mark.slow)]
    )
    def test_pcm_on_stdout(self, tiny_folder, pcm, kind):
        command = [sys.executable, "-m", "rtjazz_hf.cli", "play", "swing", "--model", str(tiny_folder), "--steps", "1",
                   "--output", "-", "--pcm", pcm, "--duration", "0.7", "--seed", "1"]  # fmt: skip
        done = subprocess.run(command, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        samples = np.frombuffer(done.stdout, dtype=kind)
        assert len(samples) == 2 * 33_600 and np.abs(samples.astype(np.float64)).max() > 0
        assert b"played 0.70 s" in done.stderr

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


class TestSoundCard:
    def test_plays_what_the_session_makes(self, play, tiny_pipeline):
        card = Card()
        code, _, err = play(
            "--duration", "1.0", "--seed", "3", "--tempo", "140", "--record", "a.flac", card=card
        )
        assert code == 0, err
        heard = np.concatenate(card.heard).T
        session = tiny_pipeline.live("swing", tempo=140, seed=3, num_inference_steps=1, guidance_scale=1.0)
        want = np.concatenate([next(session).audio for _ in range(3)], axis=1)[:, :48_000]
        start = int(np.flatnonzero(np.abs(heard).max(axis=0))[0])
        first = int(np.flatnonzero(np.abs(want).max(axis=0))[0])
        np.testing.assert_allclose(heard[:, start - first :][:, :19_200], want[:, :19_200], atol=1e-6)
        assert soundfile.info("a.flac").frames == 48_000

    def test_under_runs_are_counted_and_move_what_follows(self):
        output = SoundCardOutput(api=Card(speed=1.0), buffer=0.0)
        output.write(np.full((2, 4_800), 0.1, dtype=np.float32))
        time.sleep(0.2)
        later = output.heard_at(4_800)
        assert later >= time.perf_counter()
        output.write(np.full((2, 4_800), 0.1, dtype=np.float32))
        assert output.under_runs >= 1
        assert output.played == 9_600
        output.close(drain=False)

    def test_a_machine_that_slept_has_not_lost_its_card(self):
        now, card = [0.0], Card(hang_after=0)
        output = SoundCardOutput(api=card, buffer=0.0, clock=lambda: now[0], sleep=lambda seconds: None)
        slept = []

        def sleep(seconds):
            now[0] += seconds if slept else 3600.0  # in the first look at the card
            slept.append(seconds)
            if len(slept) == 5:  # the driver is awake again
                output._callback(np.empty((480, 2), np.float32), 480, SimpleNamespace(outputBufferDacTime=1.01,
                                 currentTime=1.0), None)  # fmt: skip

        output._sleep = sleep
        output.write(np.full((2, 480), 0.1, dtype=np.float32))
        assert output.played == 480 and len(slept) == 5
        output.close(drain=False)

    def test_more_is_kept_in_hand_after_the_sound_ran_out(self, tiny_pipeline):
        now, said = [0.0], []

        def pass_time(seconds):
            now[0] += seconds

        def late(block):
            now[0] += 1.0 if len(said) < 2 else 0.0  # than all that is in hand

        output = PacedOutput(buffer=0.4, clock=lambda: now[0], sleep=pass_time)
        player = Player(tiny_pipeline.live("swing", **FAST), output, duration=4.0, say=said.append, on_block=late)
        player.run()
        assert player.under_runs >= 2 and output.buffer == pytest.approx(0.9) and len(said) == 2
        assert "the sound ran out: 0.6 s" in said[0] and "0.9 s" in said[1]
        for _ in range(20):
            grow_buffer(output)
        assert output.buffer == 3.0 and not grow_buffer(output)

    def test_none_is_refused_with_what_to_do(self, play):
        code, _, err = play("--duration", "0.5", card=Card(cards=0))
        assert code == 2 and "no sound card" in err and "--output out.wav" in err and os.listdir() == []

    def test_none_with_a_recording_goes_on_at_real_time_pace(self, play):
        begun = time.perf_counter()
        code, _, err = play("--duration", "0.6", "--record", "a.wav", card=Card(cards=0))
        assert code == 0 and "no sound card" in err and time.perf_counter() - begun > 0.6
        assert soundfile.info("a.wav").frames == 28_800

    def test_unknown_name_lists_the_cards(self, play):
        code, _, err = play("--sound-card", "Piano", card=Card())
        assert code == 2 and "'Piano'" in err and "0: Speakers" in err

    @pytest.mark.parametrize("how", [{"lose_after": 60}, {"hang_after": 60}])
    def test_lost_in_play(self, tiny_pipeline, tmp_path, how):
        said = []
        session = tiny_pipeline.live("swing", **FAST)
        output = SoundCardOutput(api=Card(speed=4.0, **how), lost_after=0.3)
        player = Player(session, output, recorder=Recorder(tmp_path / "a.wav"), duration=1.5, say=said.append)
        player.run()
        assert "the sound card is lost" in said[0] and "recording goes on" in said[0]
        assert soundfile.info(tmp_path / "a.wav").frames == 72_000

    def test_lost_in_play_without_a_recording(self, play):
        code, _, err = play("--duration", "5", card=Card(lose_after=60, speed=4.0))
        assert code == 1 and "the sound card is lost" in err.splitlines()[-1] and "Traceback" not in err
        with pytest.raises(OutputLost):
            output = SoundCardOutput(api=Card(hang_after=0), buffer=0.0, lost_after=0.2)
            output.write(np.zeros((2, 480), dtype=np.float32))


class TestClocks:
    def test_waits_counts_in_and_enters_at_bar_one(self, tiny_pipeline, tmp_path):
        mido = pytest.importorskip("mido")
        now = [0.0]
        clock = MidiClock(clock=lambda: now[0])
        tick, sent, said = 60 / (24 * 240), [0], []

        def pass_time(seconds):
            until = now[0] + seconds
            while sent[0] * tick < until:
                now[0] = sent[0] * tick
                if sent[0] == 48:  # the set starts after half a second
                    clock.receive(mido.Message("start"))
                clock.receive(mido.Message("clock"))
                sent[0] += 1
            now[0] = until

        output = PacedOutput(buffer=0.1, clock=lambda: now[0], sleep=pass_time)
        session = tiny_pipeline.live("swing", chords=CHART, tempo=100, **FAST)
        follower = ClockFollower(clock, count_in=4)
        blocks = []
        player = Player(
            session, output, follower=follower, recorder=Recorder(tmp_path / "a.wav"), duration=1.9,
            say=said.append, on_block=lambda block: blocks.append((block, output.heard_at(player._handed))),
        )  # fmt: skip
        player.run()
        assert said[0] == "waiting for the clock" and any(
            "following the clock at 240.0" in text for text in said
        )
        first, ends = blocks[0]
        assert (first.bar, first.beat) == (1, pytest.approx(1.0, abs=0.01))
        band_starts = ends - first.duration
        assert band_starts == pytest.approx(48 * tick + 1.0, abs=0.001)  # four beats after the set's start
        assert blocks[1][0].tempo == pytest.approx(240, rel=0.01)

    def test_what_is_heard_stands_while_the_clock_does(self, tiny_pipeline):
        mido = pytest.importorskip("mido")
        now, sent = [0.0], [0]
        clock, tick, seen = MidiClock(clock=lambda: now[0]), 60 / (24 * 120), []
        orders = {24: "start", 24 * 9: "stop", 24 * 17: "continue"}  # by tick

        def pass_time(seconds):
            until = now[0] + seconds
            while sent[0] * tick < until:
                now[0] = sent[0] * tick
                if sent[0] in orders:
                    clock.receive(mido.Message(orders[sent[0]]))
                clock.receive(mido.Message("clock"))
                sent[0] += 1
            now[0] = until
            seen.append((until, player.heard()))
            if until > 10.0:
                player.stop()

        output = PacedOutput(buffer=0.1, clock=lambda: now[0], sleep=pass_time)
        player = Player(
            tiny_pipeline.live("swing", chords=CHART, tempo=120, **FAST),
            output,
            follower=ClockFollower(clock),
        )
        player.run()
        standing = {heard.seconds for at, heard in seen if 5.5 < at < 8.5}
        assert len(standing) == 1
        assert all(heard is None for at, heard in seen if at < 0.5)
        moving = [heard.seconds for at, heard in seen if at > 9.0]
        assert moving == sorted(set(moving)) and moving[0] > standing.pop()

    @pytest.mark.parametrize("option", ["--follow", "--lead"])
    def test_unknown_port_lists_those_there_are(self, play, option):
        midi = SimpleNamespace(
            get_input_names=lambda: ["Drum Machine"], get_output_names=lambda: ["Synth"], Message=None
        )
        code, _, err = play(option, "Kazoo", "--output", "a.wav", midi=midi)
        assert code == 2 and "'Kazoo'" in err and ("Drum Machine" in err or "Synth" in err)
        assert os.listdir() == []

    def test_leads_a_port(self, play):
        pytest.importorskip("mido")
        sent = []
        port = SimpleNamespace(send=lambda message: sent.append(message.type), close=lambda: None)
        midi = SimpleNamespace(get_output_names=lambda: ["Synth"], open_output=lambda name: port)
        options = ["--output", "a.wav", "--duration", "1", "--tempo", "240", "--count-in", "1"]
        code, _, _ = play("--lead", "Synth", *options, midi=midi)
        assert code == 0 and sent[-1] == "stop"
        assert sent.index("start") == 96 and sent.count("clock") >= 96 + 60

    def test_alone_in_a_link_session_the_tempo_is_the_bands(self, play):
        pytest.importorskip("aalink")
        code, out, err = play(
            "--follow", "link", "--output", "a.wav", "--duration", "1", "--tempo", "97", "--json"
        )
        assert code == 0 and "following the clock at 97.0 BPM" in err
        # On a busy machine the first blocks are late, and the band makes up for it by a tempo that is a little off.
        assert json.loads(out)["tempo"] == pytest.approx(97, rel=0.1)
        assert soundfile.info("a.wav").frames == 48_000

    def test_clicks_join_without_a_seam(self):
        whole = clicks(-4.0, 132.0, 96_000, Metre(4, 4))
        start = -4.0 + 33_333 * 132.0 / 60 / 48_000
        np.testing.assert_allclose(clicks(start, 132.0, 62_667, Metre(4, 4)), whole[:, 33_333:], atol=1e-4)


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

    @pytest.mark.parametrize("closed", ["<&-", "<&- 2>&-"])
    def test_closed_streams(self, tiny_folder, tmp_path, closed):
        command = f"exec {sys.executable} -m rtjazz_hf.cli play swing --model {tiny_folder} --device cpu"
        command += f" --steps 1 --guidance 1 --duration 0.2 --json --output a.wav {closed}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["duration"] == pytest.approx(0.2)
        assert soundfile.info(tmp_path / "a.wav").frames == 9_600

    def test_a_closed_stdout_takes_no_music(self, tiny_folder, tmp_path):
        command = f"exec {sys.executable} -m rtjazz_hf.cli play swing --model {tiny_folder} --output - >&-"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2 and "standard output is closed" in done.stderr

    def test_no_prompt(self, play):
        assert play(prompt=" ")[0] == 2

    def test_lists_devices(self, capsys):
        assert cli_play.run_play(argparse.Namespace(list_devices=True), sound_api=Card()) == 0
        out = capsys.readouterr().out
        assert "0: Speakers" in out and "MIDI inputs" in out
