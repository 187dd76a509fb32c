"""`rtjazz play` as the tests of this folder call it."""

from __future__ import annotations

import pytest

from rtjazz_hf import cli
from rtjazz_hf.cli import play as cli_play


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
