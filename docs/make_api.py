"""Write the API reference, HTML made from docstrings by pdoc.

python docs/make_api.py            # into docs/api
python docs/make_api.py FOLDER
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pdoc

MODULES = (
    "rtjazz_hf", "rtjazz_hf.audio", "rtjazz_hf.music", "rtjazz_hf.band", "rtjazz_hf.codec", "rtjazz_hf.style",
    "rtjazz_hf.flow",
    "rtjazz_hf.adapters", "rtjazz_hf.live", "rtjazz_hf.hub", "rtjazz_hf.runtime.quantization", "rtjazz_hf.corpus",
    "rtjazz_hf.evaluation", "rtjazz_hf.benchmark", "rtjazz_hf.trainers.run",
)  # fmt: skip


def load(name: str) -> ModuleType:
    """A module with all of its public names in place; pdoc does not see those that load on first use."""
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        setattr(module, public, getattr(module, public))
    return module


def main(folder: Path, names: tuple[str, ...] = MODULES) -> None:
    pdoc.render.configure(docformat="google")
    for name in names:
        load(name)
    pdoc.pdoc(*names, output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "api")
