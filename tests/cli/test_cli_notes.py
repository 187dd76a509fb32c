"""Melodies, MIDI files and stems of the commands."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import soundfile
from tiny_models import build_tiny_pipeline

from rtjazz_hf import cli
from rtjazz_hf.band import Score, ScoreNote
from rtjazz_hf.music.score_features import SCORE_DIM

pytest.importorskip("mido")


@pytest.fixture(scope="module")
def notes_folder(tmp_path_factory):
    """A tiny pipeline that reads notes."""
    folder = tmp_path_factory.mktemp("notes") / "model"
    build_tiny_pipeline(score_dim=SCORE_DIM).save_pretrained(folder)
    return folder


@pytest.fixture
def generate(notes_folder, tmp_path, monkeypatch, capsys):
    """Run `rtjazz generate` in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, model=notes_folder):
        base = ["generate", "swing", "--model", str(model), "--device", "cpu", "--seed", "4", "--tempo", "200"]
        length = [] if "--bars" in arguments else ["--duration", "0.96"]
        code = cli.main([*base, *length, *arguments])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def tune(tmp_path):
    notes = tuple(ScoreNote(i * 0.5, 0.5, 60 + 2 * i, 80, "piano", "lead") for i in range(6))
    return Score(notes, metre="3/4").to_midi(tmp_path / "tune.mid")


class TestGenerate:
    def test_melody_midi_and_stems(self, generate, tune):
        code, out, err = generate(
            "-o", "take.wav", "--melody", "tune.mid", "--midi", "take.mid", "--stems", "stems", "--json",
            "--chords", "C6 | G7", "--instruments", "trumpet,bass",
        )  # fmt: skip
        assert code == 0, err
        result = json.loads(out)
        assert (result["melody"], result["midi"], result["parts"]) == ("tune.mid", "take.mid", "band")
        played = Score.from_file("take.mid")
        lead = [n for n in played.notes if n.role == "lead"]
        assert [n.midi for n in lead] == [60, 62, 64, 66, 68, 70] and {n.player for n in lead} == {"trumpet"}
        assert played.tempo == pytest.approx(200, rel=1e-4) and played.metre == "4/4"
        assert "rtjazz: the melody is in 3/4 and the chart in 4/4" in err
        mix, _ = soundfile.read("take.wav")
        assert sorted(os.listdir("stems")) == sorted(f"{name}.wav" for name in played.players)
        for path in result["stems"]:
            assert soundfile.info(path).frames == len(mix) and soundfile.info(path).subtype == "FLOAT"

    def test_stems_of_bars(self, generate):
        code, _, err = generate("-o", "take.wav", "--bars", "1", "--stems", "stems", "--chords", "C6 | G7")
        assert code == 0, err
        assert {soundfile.info(f"stems/{name}").frames for name in os.listdir("stems")} == {
            soundfile.info("take.wav").frames
        }

    def test_levels_mix_the_players_anew(self, generate):
        code, out, err = generate(
            "-o", "take.wav", "--levels", "bass=-60", "--stems", "stems", "--chords", "C6 | G7", "--instruments",
            "piano,bass", "--json",
        )  # fmt: skip
        assert code == 0, err
        assert json.loads(out)["levels"] == {"bass": -60.0}
        mix, piano = soundfile.read("take.wav")[0], soundfile.read("stems/piano.wav")[0]
        turned_down = np.abs(mix).max() / np.abs(piano).max()
        np.testing.assert_allclose(mix, piano * turned_down, atol=5e-3)

    def test_free_tells_the_melody_alone(self, generate, tune):
        code, _, err = generate(
            "-o", "a.wav", "--melody", "tune.mid", "--parts", "free", "--midi", "a.mid", "--chords", "C6 | G7"
        )
        assert code == 0, err
        assert {n.role for n in Score.from_file("a.mid").notes} == {"lead"}
        generate("-o", "b.wav", "--parts", "free", "--chords", "C6 | G7")
        assert not np.array_equal(soundfile.read("a.wav")[0], soundfile.read("b.wav")[0])

    @pytest.mark.parametrize(
        "arguments, message",
        [
            (["--melody", "none.mid"], "none.mid"),
            (["--melody", "tune.wav"], "by its suffix"),
            (["--parts", "free", "--midi", "a.mid"], "--parts free tells none"),
            (["--midi", "a.txt"], "allowed: .mid"),
            (["--stems", "gone/stems"], "does not exist"),
            (["--levels", "bass=loud"], "write bass=-3"),
            (["--levels", "trombone=-3", "--instruments", "piano,bass"], "the band is piano, bass"),
            (["--levels", "bass=-3", "--codes", "a.rtj"], "--levels mixes players anew"),
            (["--bars", "2", "--loop", "--stems", "stems"], "--loop and --stems"),
        ],
    )
    def test_refused(self, generate, arguments, message):
        code, _, err = generate("-o", "a.wav", *arguments)
        assert code == 2 and message in err and os.listdir() == []

    def test_a_model_without_notes(self, generate, tiny_folder, tune):
        code, _, err = generate("-o", "a.wav", "--melody", "tune.mid", model=tiny_folder)
        assert code == 2 and "reads chords and no notes" in err


class TestPlay:
    def test_melody_and_midi(self, notes_folder, tune, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        code = cli.main(
            ["play", "swing", "--model", str(notes_folder), "--device", "cpu", "--seed", "4", "--tempo", "200",
             "--chords", "C6 | G7", "--instruments", "trumpet,bass", "--steps", "1", "--duration", "1.5",
             "--output", "take.wav", "--melody", "tune.mid", "--midi", "take.mid", "--no-display", "--json"]
        )  # fmt: skip
        out, err = capsys.readouterr()
        assert code == 0, err
        assert json.loads(out)["midi"] == "take.mid" and "the melody is in 3/4" in err
        lead = [n.midi for n in Score.from_file("take.mid").notes if n.role == "lead"]
        assert lead[:6] == [60, 62, 64, 66, 68, 70]  # then the band goes on

    def test_refused(self, notes_folder, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        base = ["play", "swing", "--model", str(notes_folder), "--output", "a.wav"]
        assert cli.main([*base, "--midi", "a.mid", "--parts", "free"]) == 2
        assert "--parts free tells none" in capsys.readouterr().err
        assert cli.main([*base, "--melody", "none.mid"]) == 2
        assert "none.mid" in capsys.readouterr().err and os.listdir() == []
