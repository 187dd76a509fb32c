"""The Python that a page plays with, as one zip: the package's `music` and `band`, pychord, a stand-in for numpy."""

from __future__ import annotations

import zipfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parents[1] / "src" / "rtjazz_hf"
ROOMS = ("music", "band")
# They read and write files, or train: nothing that a page does, and they would bring other libraries.
LEFT_OUT = {"band/midi.py", "band/musicxml.py"}


def score_files() -> dict[str, Path | str]:
    """Every file of the zip: its name there, and where it is or what it says."""
    files: dict[str, Path | str] = {
        "rtjazz_hf/__init__.py": '"""The rooms of rtjazz_hf that a page needs."""\n'
    }
    for room in ROOMS:
        for path in sorted((PACKAGE / room).glob("*.py")):
            if f"{room}/{path.name}" not in LEFT_OUT:
                files[f"rtjazz_hf/{room}/{path.name}"] = path
    for path in sorted((HERE / "small_numpy").glob("*.py")):
        files[f"numpy/{path.name}"] = path
    files["page_band.py"] = HERE / "page_band.py"
    pychord = Path(find_spec("pychord").origin).parent
    for path in sorted(pychord.rglob("*.py")):
        files[f"pychord/{path.relative_to(pychord).as_posix()}"] = path
    return files


def write_score_zip(path: Path) -> Path:
    """Write it; the same files give the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in sorted(score_files().items()):
            data = source.encode() if isinstance(source, str) else source.read_bytes()
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return path


if __name__ == "__main__":
    print(write_score_zip(Path("score.zip")))
