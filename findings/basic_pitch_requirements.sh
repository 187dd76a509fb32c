#!/usr/bin/env bash
# basic-pitch 0.4.0 asks for tensorflow<2.15.1 on Linux from Python 3.11 on, whatever model is to be run. It ships an ONNX
# model that transcribes without TensorFlow, so one would guess that `pip install 'basic-pitch[onnx]'` is enough for it.
# It is not: the extra adds onnxruntime beside TensorFlow. No such TensorFlow is published for Python 3.12 and later, and
# the one for 3.11 wants numpy below 2. It asks for resampy<0.4.3 too and runs with 0.4.3. What works: --no-deps, and by
# hand the few packages that its code imports.
#
# Seen with basic-pitch 0.4.0, onnxruntime 1.32.0, Python 3.11.
# Fails if the requirement goes, or if the ONNX model no longer runs without TensorFlow.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-deps basic-pitch==0.4.0
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 librosa==0.11.0 mir_eval==0.8.2 pretty_midi==0.2.11.post0 \
    resampy==0.4.3 scikit-learn scipy setuptools
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import importlib.util

wanted = importlib.metadata.requires("basic-pitch")
tensorflow = [line for line in wanted if line.startswith("tensorflow<")]
onnx = [line for line in wanted if line.startswith("onnxruntime")]
print("\n".join(tensorflow + onnx))
assert any("extra" not in line for line in tensorflow), "TensorFlow is no longer required"
assert importlib.util.find_spec("tensorflow") is None

import numpy
import soundfile
from basic_pitch import FilenameSuffix, build_icassp_2022_model_path
from basic_pitch.inference import predict

time = numpy.arange(3 * 22_050) / 22_050
soundfile.write("a4.wav", 0.3 * numpy.sin(2 * numpy.pi * 440 * time) * (time < 2), 22_050)
_, _, notes = predict("a4.wav", build_icassp_2022_model_path(FilenameSuffix.onnx))
print("heard without TensorFlow:", [note[2] for note in notes])
assert 69 in [note[2] for note in notes]
PYTHON
