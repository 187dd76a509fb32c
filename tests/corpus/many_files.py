"""A thousand short files, fifty of them bad in ten ways: 950 are used, 50 are named, and the script ends well.

    python tests/corpus/many_files.py FOLDER --model MODEL [--good 950] [--bad 50] [--workers 2] [--engine local]

A minutes-long check by hand of what test_prepare_external does with seventeen. Needs the repository's tests folder on
PYTHONPATH.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from external_sources import KINDS, write_many

SCRIPT = Path(__file__).parents[2] / "training" / "prepare_corpus.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", required=True, help="pipeline whose codec and style encoder are used")
    parser.add_argument("--good", type=int, default=950)
    parser.add_argument("--bad", type=int, default=50)
    parser.add_argument("--workers", default="2")
    parser.add_argument("--engine", default="local")
    args = parser.parse_args()
    kinds = tuple(kind for kind in KINDS if kind != "empty")  # ten
    if not (args.folder / "in").exists():
        write_many(args.folder / "in", args.good, args.bad, kinds)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, SCRIPT, "--dataset", "folder", "--source", args.folder / "in", "--codec", args.model,
         "--style-encoder", args.model, "--workers", args.workers, "--engine", args.engine,
         "--out", args.folder / "out"],
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    report = json.loads(done.stdout)
    print(f"{time.monotonic() - started:.0f} s; {json.dumps(report)}")
    wanted = {kind: len(range(place, args.bad, len(kinds))) for place, kind in enumerate(kinds)}
    assert (report["used"], report["skipped"]) == (args.good, args.bad), "not as many as there are"
    assert report["reasons"] == {kind: count for kind, count in sorted(wanted.items()) if count}


if __name__ == "__main__":
    main()
