"""Put the page together: a folder that any static host serves, and that plays without a server.

    python pipelines/browser/build.py -o site/                       # exports rtjazz-mini; npm fetches the rest
    python -m http.server --directory site 8000                      # then http://localhost:8000/
    python pipelines/browser/build.py -o site/ --model my-model/ --steps 2

The model's graphs come from `conversion/export_browser.py` (`pip install '.[onnx]'`), the notes from the package
itself, onnxruntime-web and Pyodide from npm, at the versions below; nothing of theirs is in the repository.
`--exported` and `--node-modules` take what is there already. As a static Space the folder is pushed as it is: `hf
upload me/space site . --repo-type space`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from score_files import write_score_zip

from rtjazz_hf.cli.scripts import run_script
from rtjazz_hf.runtime.files import atomic_folder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PLAYER = ROOT / "src" / "rtjazz_hf" / "server" / "player"
SHARED = ("worklet.js", "stand.js", "stand.css")  # of the server's player
PACKAGES = {"onnxruntime-web": "1.30.0", "pyodide": "314.0.7"}
VENDOR = {
    "onnxruntime-web": (
        "dist/ort.wasm.min.mjs",
        "dist/ort-wasm-simd-threaded.mjs",
        "dist/ort-wasm-simd-threaded.wasm",
    ),
    "pyodide": (
        "pyodide.mjs",
        "pyodide.asm.mjs",
        "pyodide.asm.wasm",
        "python_stdlib.zip",
        "pyodide-lock.json",
    ),
}
SPACE = """---
title: RealTimeJazz in the browser
emoji: 🎷
colorFrom: blue
colorTo: gray
sdk: static
license: apache-2.0
---
"""


def fetch_packages(folder: Path) -> Path:
    """`node_modules` with what npm has of PACKAGES."""
    if shutil.which("npm") is None:
        raise OSError("npm is needed to fetch onnxruntime-web and Pyodide (Debian: apt-get install npm)")
    (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
    names = [f"{name}@{version}" for name, version in PACKAGES.items()]
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", *names]
    if subprocess.run(command, cwd=folder).returncode:
        raise OSError(f"npm could not fetch {', '.join(names)}")
    return folder / "node_modules"


def copy_vendor(modules: Path, target: Path) -> None:
    """What the page needs of the npm packages, and their licences."""
    target.mkdir(parents=True)
    for package, files in VENDOR.items():
        for name in files:
            source = modules / package / name
            if not source.is_file():
                raise OSError(f"{package} has no {name}: versions {PACKAGES} are meant")
            shutil.copyfile(source, target / source.name)
        for licence in (modules / package).glob("LICENSE*"):
            shutil.copyfile(licence, target / f"{package}-{licence.name}")


def export_model(args: argparse.Namespace, target: Path) -> None:
    """The graphs, by the script of conversion/ in a process of its own."""
    script = ROOT / "conversion" / "export_browser.py"
    options = [] if args.steps is None else ["--steps", str(args.steps)]
    command = [sys.executable, str(script), args.model, "-o", str(target), *options]
    if subprocess.run(command).returncode:
        raise OSError("the model was not exported; why stands above")


def build(args: argparse.Namespace) -> None:
    if args.output.exists() and not args.overwrite:
        raise OSError(f"{args.output} exists; give --overwrite to replace it")
    if args.output.exists() and not (args.output / "engine.js").is_file() and any(args.output.iterdir()):
        raise OSError(f"{args.output} is something other than a page and is left alone; give another folder")
    with tempfile.TemporaryDirectory() as scratch, atomic_folder(args.output) as site:
        modules = args.node_modules or fetch_packages(Path(scratch))
        copy_vendor(modules, site / "vendor")
        if args.exported:
            shutil.copytree(args.exported, site / "model")
        else:
            export_model(args, site / "model")
        for path in (HERE / "page").iterdir():
            shutil.copyfile(path, site / path.name)
        for name in SHARED:
            shutil.copyfile(PLAYER / name, site / name)
        write_score_zip(site / "score.zip")
        (site / "README.md").write_text(SPACE, encoding="utf-8")
        settings = json.loads((site / "model" / "model.json").read_text(encoding="utf-8"))
        weights = sum(each["bytes"] for each in settings["files"].values())
        total = sum(path.stat().st_size for path in site.rglob("*") if path.is_file())
    print(f"{args.output}: {total / 1e6:.1f} MB, of which the model is {weights / 1e6:.1f} MB")


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the page")
    parser.add_argument("--model", default="rtjazz-mini", help="pipeline: bundled name, folder or Hub id")
    parser.add_argument("--steps", type=int, help="steps a block (the pipeline's)")
    parser.add_argument("--exported", type=Path, help="a folder of export_browser.py, in place of exporting")
    parser.add_argument("--node-modules", type=Path, help="a node_modules with the packages, in place of npm")
    parser.add_argument("--overwrite", action="store_true", help="replace the page that is there")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    return run_script(lambda: build(parse_args(argv)))


if __name__ == "__main__":
    sys.exit(main())
