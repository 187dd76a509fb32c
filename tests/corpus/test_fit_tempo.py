"""The script that fits the templates of tempo: from nothing it learns to tell metronomes, and prints what it finds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scripts import load_script
from synthetic_takes import write_takes

from rtjazz_hf.corpus.tempo import tempo_comb

pytest.importorskip("librosa")
fit_tempo = load_script("fit_tempo")


def test_templates_are_learnt_from_nothing():
    tempi = np.linspace(90, 170, 12)
    clicks = fit_tempo.examples([fit_tempo.metronome(tempo, 2 / 3, 12.0) for tempo in tempi], tempi)
    grid, _ = tempo_comb(fit_tempo.metronome(100.0, None), fit_tempo.ONSET_RATE)
    model = fit_tempo.Templates(grid)
    torch.nn.init.normal_(model.templates, std=0.1, generator=torch.Generator().manual_seed(0))
    fit_tempo.fit(model, *clicks)
    assert fit_tempo.found(model, *clicks) > 0.9


def test_prints_two_rows(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fit_tempo, "STEPS", 2)
    fit_tempo.main(["--takes", str(write_takes(tmp_path, count=4, seconds=6.0))])
    printed = capsys.readouterr().out.splitlines()
    assert "found before" in printed[0] and len(printed) == 4


def test_no_corpus_is_told(tmp_path):
    with pytest.raises(SystemExit):
        fit_tempo.main(["--takes", str(tmp_path / "none")])
