"""Put the code of a pipeline beside its weights, so that it plays where the package is not installed.

    python pipelines/hub/add_code.py my-model
    python -c "from rtjazz_hf.hub.publishing import push_folder; print(push_folder('my-model', 'me/my-model'))"

Writes `pipeline.py` (see there) into a pipeline's folder, after a process that knows no `rtjazz_hf` has loaded the
folder with it and played.
"""

from __future__ import annotations

import argparse
import base64
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import rtjazz_hf
from rtjazz_hf import hub
from rtjazz_hf.runtime.files import whole_or_not_at_all

SHIM = Path(__file__).with_name("pipeline.py")
PACKAGE = Path(rtjazz_hf.__file__).parent
# Rooms that playing does not need.
LEFT_OUT = ("checkpoints", "corpus", "evaluation", "trainers", "benchmark", "server", "cli")

CHECK = """
import os, sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [place for place in sys.path if not os.path.isdir(os.path.join(place, "rtjazz_hf"))]
import importlib.util
assert importlib.util.find_spec("rtjazz_hf") is None, "the package is still in sight"
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], custom_pipeline="pipeline", trust_remote_code=True)
import torch
pipe.set_progress_bar_config(disable=True)
audio = pipe("swing", duration=0.5, generator=torch.Generator().manual_seed(1), output_type="pt").audios
assert audio.shape == (1, 2, 24000) and audio.isfinite().all()
print(sys.modules["rtjazz_hf"].__file__)
"""


def sources() -> bytes:
    """A zip of the package's sources; the same for the same sources."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(PACKAGE.rglob("*.py")):
            inside = path.relative_to(PACKAGE)
            if inside.parts[0] in LEFT_OUT:
                continue
            entry = zipfile.ZipInfo(f"{PACKAGE.name}/{inside.as_posix()}")
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())
    return buffer.getvalue()


def filled_shim() -> str:
    archive = base64.b64encode(sources()).decode()
    return SHIM.read_text(encoding="utf-8").replace('ARCHIVE = ""', f'ARCHIVE = "{archive}"')


def add_code(folder: Path) -> Path:
    """Write `pipeline.py` into `folder`; raises ValueError where it would not play."""
    hub.check_pipeline_folder(folder)
    with tempfile.TemporaryDirectory() as temporary:
        # beside links to the model's parts, so that the folder itself is touched only when all is well
        trial = Path(temporary) / "model"
        trial.mkdir()
        for path in folder.resolve().iterdir():
            if path.name != "pipeline.py":
                (trial / path.name).symlink_to(path)
        (trial / "pipeline.py").write_text(filled_shim(), encoding="utf-8")
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["HF_MODULES_CACHE"] = str(Path(temporary) / "modules")
        done = subprocess.run(
            [sys.executable, "-c", CHECK, str(trial)],
            capture_output=True,
            text=True,
            env=environment,
            cwd=temporary,
        )
        if done.returncode:
            raise ValueError(f"the code does not play {folder}: {done.stderr.strip().splitlines()[-1:]}")
        with whole_or_not_at_all(folder / "pipeline.py") as partial:
            partial.write_text((trial / "pipeline.py").read_text(encoding="utf-8"), encoding="utf-8")
    return folder / "pipeline.py"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a folder that save_pretrained wrote")
    args = parser.parse_args(argv)
    try:
        path = add_code(args.folder)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB; loaded and played without the package")
    return 0


if __name__ == "__main__":
    sys.exit(main())
