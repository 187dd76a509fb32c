#!/usr/bin/env bash
# basic-pitch 0.4.0 never reports what happens in the last 0.67% of a file: 0.4 s of a minute, 2 s of five. Its windows
# give 142 frames for every 36,164 samples (86.58 a second), but the joined frames are cut to the length of the file at
# 86 a second, and frames at the end are lost. Silence after the file (1% of it) brings the last notes back.
#
# Seen with basic-pitch 0.4.0, onnxruntime 1.32.0, Python 3.11. Fails if the last note is reported without the silence.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps basic-pitch==0.4.0
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 librosa==0.11.0 mir_eval==0.8.2 pretty_midi==0.2.11.post0 \
    resampy==0.4.3 scikit-learn scipy setuptools
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import numpy
import soundfile
from basic_pitch import FilenameSuffix, build_icassp_2022_model_path
from basic_pitch.inference import Model, predict

RATE, SECONDS = 22_050, 60
model = Model(build_icassp_2022_model_path(FilenameSuffix.onnx))


def starts(name, audio):
    soundfile.write(name, audio, RATE)
    return sorted(round(float(note[0]), 2) for note in predict(name, model)[2] if note[2] == 69)


time = numpy.arange(SECONDS * RATE) / RATE
begins = numpy.array([10.0, 30.0, 50.0, SECONDS - 0.38])  # the last lasts to the end of the file
sounding = sum(((time >= begin) & (time < begin + 0.38)).astype(float) for begin in begins)
audio = 0.3 * numpy.sin(2 * numpy.pi * 440 * time) * sounding
alone = starts("alone.wav", audio)
padded = starts("padded.wav", numpy.concatenate([audio, numpy.zeros(RATE + len(audio) // 100)]))
print("played at:", begins.tolist())
print("reported:", alone)
print("reported with silence after it:", padded)
assert max(padded) > SECONDS - 0.6, "the silence no longer helps"
assert max(alone) < SECONDS - 0.6, "the end of a file is reported now"
PYTHON
