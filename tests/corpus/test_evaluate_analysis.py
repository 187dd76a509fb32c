"""The script that says how much is heard right: of plain takes nearly all, and what is refused counts."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scripts import load_script
from synthetic_takes import played

from rtjazz_hf.audio import write_audio
from rtjazz_hf.music import LeadSheet

pytest.importorskip("librosa")
evaluate_analysis = load_script("evaluate_analysis")
CHART = "Dm7 | G7 | Cmaj7 | A7"


def test_a_player_is_heard_and_noise_refused(tmp_path, capsys):
    player = tmp_path / "eve"
    (player / "takes").mkdir(parents=True)
    write_audio(player / "takes" / "good.wav", played(120, 16.0, CHART))
    noise = 0.1 * np.random.default_rng(0).standard_normal((2, 48_000 * 12)).astype(np.float32)
    write_audio(player / "takes" / "noise.wav", noise)
    sheet = LeadSheet.from_chart(CHART, 120).to_dict()
    (player / evaluate_analysis.CHARTS).write_text(json.dumps({"good.wav": sheet, "noise.wav": sheet}))
    evaluate_analysis.main(["--players", str(player)])
    printed = capsys.readouterr().out
    assert "noise.wav: no" in printed
    assert "2 takes, 1 refused; of the others tempo right in 1" in printed
    found = evaluate_analysis.hear(player / "takes" / "good.wav", LeadSheet.from_dict(sheet))
    assert found["root"] > 0.8 and abs(found["late"]) < 0.05


def test_what_is_missing_is_told(tmp_path, capsys):
    for args in ([], ["--players", str(tmp_path)]):
        with pytest.raises(SystemExit):
            evaluate_analysis.main(args)
    assert "make_players.py" in capsys.readouterr().err
