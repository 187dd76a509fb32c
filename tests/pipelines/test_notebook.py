"""The notebook runs from top to bottom, at tiny size, and plays inline."""

from __future__ import annotations

import json

import pytest
from scripts import ROOT

NOTEBOOK = ROOT / "pipelines" / "examples" / "first_sound.ipynb"


@pytest.fixture(scope="module")
def cells():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_it_runs_from_top_to_bottom(cells, tiny_folder, tmp_path, monkeypatch):
    shells = pytest.importorskip("IPython.core.interactiveshell", reason="runs notebooks (the dev extra)")
    from IPython.utils.capture import capture_output

    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("RTJAZZ_MODEL", str(tiny_folder))
    monkeypatch.setenv("RTJAZZ_SECONDS", "1")
    monkeypatch.chdir(tmp_path)
    shell, players = shells.InteractiveShell.instance(), 0  # what is displayed goes to the one that there is
    for cell in cells:
        source = "".join(cell["source"])
        if "%pip" in source:  # it is installed, and tests reach no network
            continue
        with capture_output() as seen:
            result = shell.run_cell(source)
        result.raise_error()
        players += sum("<audio" in shown.data.get("text/html", "") for shown in seen.outputs)
    shells.InteractiveShell.clear_instance()
    assert players == 4 and (tmp_path / "quartet.flac").stat().st_size > 1000


def test_it_is_committed_without_outputs(cells):
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
