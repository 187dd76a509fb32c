#!/usr/bin/env bash
# libsndfile 1.2.2 (soundfile 0.14.0): closing a file whose end could not be written reports success.
#
# Expected: an error of `close`, as of a write. Seen: Ogg Vorbis and FLAC keep the last samples in the encoder until the
# file is closed; if the disk is full then (here: a limit of the file's size), `close` returns as if all were well, and
# the file lacks its end.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q "soundfile==0.14.0" "numpy>=2"
cd "$work"
venv/bin/python - <<'PY'
import resource

import numpy as np
import soundfile

noise = np.random.default_rng(0).normal(0, 0.1, (24_000, 2))
lost = {}
for suffix in ("ogg", "flac"):
    soundfile.write(f"whole.{suffix}", noise, 48_000)
    size = len(open(f"whole.{suffix}", "rb").read())
    resource.setrlimit(resource.RLIMIT_FSIZE, (size - 100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    soundfile.write(f"cut.{suffix}", noise, 48_000)  # raises nothing
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    there = 0
    try:
        with soundfile.SoundFile(f"cut.{suffix}") as file:
            while length := len(file.read(1024)):
                there += length
    except RuntimeError:
        pass
    lost[suffix] = len(noise) - there
print(soundfile.__libsndfile_version__, "soundfile", soundfile.__version__, "samples lost without an error:", lost)
assert all(count > 0 for count in lost.values()), "it behaves otherwise now"
PY
echo "as described"
