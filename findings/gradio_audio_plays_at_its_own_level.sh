#!/usr/bin/env bash
# gradio 6.31.0: float audio is played at full scale whatever its level, each array anew
#
# A good engineer would guess: a float array in [-1, 1], which is what every audio library hands over, is played as loud as it is; at
# 0.01 it is 40 dB quieter than at 1.0.
#
# What happens: on the way to 16 bits the Audio component divides by the array's own peak. The one warning speaks of the type, not
# of the level. Seen, for a fade-out of four blocks:
#     peaks given [0.5, 0.1, 0.02, 0.004], peaks in the files [1.0, 1.0, 1.0, 1.0]
#
# Why it matters: two mixes cannot be compared by ear, and where a demo hands over sound piece by piece, a fade stays at full level
# and the noise of a pause is as loud as the band. Convert to int16 before handing the array over.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile numpy==2.4.6 scipy==1.17.1 gradio==6.31.0
venv/bin/python - <<'PY'
import warnings

import gradio
import numpy as np
from scipy.io import wavfile

warnings.simplefilter("ignore")
tone = np.sin(2 * np.pi * 440 * np.arange(24_000) / 48_000)
given, played = [0.5, 0.1, 0.02, 0.004], []
for peak in given:
    output = gradio.Audio(format="wav").postprocess((48_000, (peak * tone).astype(np.float32)))
    played.append(round(float(np.abs(wavfile.read(output.path)[1].astype(float)).max() / 32_768), 3))
print(f"peaks given {given}, peaks in the files {played}")
assert played == [1.0] * 4, "changed: the level is kept"
PY
