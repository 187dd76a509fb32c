#!/usr/bin/env bash
# openvino 2026.4.1, CPU: a model in float64 is computed in float32 and hands out float64
#
# A good engineer would guess: a model whose inputs, constants and outputs are all float64 is computed in float64, or refused.
#
# What happens: it is computed in single precision and the result is cast to float64, so types and shapes look right. This is with
# INFERENCE_PRECISION_HINT at f32, so that the machine's own choice of bfloat16 plays no part. Seen, for the phase of a 440 Hz tone, in cycles:
#     after     1.0 s: 0.009186 as float64, right is 0.009167
#     after  3600.0 s: 0.000000 as float64, right is 0.009167
#
# Why it matters: sums of phase and of time are where audio code uses float64 on purpose. A tone generator that is exact
# in PyTorch goes out of tune and clicks after minutes, long after the tests have ended.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile numpy==2.4.6 openvino==2026.4.1
venv/bin/python - <<'PY'
import numpy as np
import openvino as ov
import openvino.opset13 as ops

seconds = ops.parameter([2], np.float64, name="seconds")
cycles = ops.multiply(seconds, ops.constant(np.array([440.0])))
phase = ops.subtract(cycles, ops.floor(cycles))
compiled = ov.Core().compile_model(ov.Model([phase], [seconds], "phase"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
times = np.array([1.0, 3600.0]) + 1 / 48_000
result = compiled([times])[0]
right = times * 440 - np.floor(times * 440)
for time, got, want in zip(times, result, right):
    print(f"after {time:7.1f} s: {got:.6f} as {result.dtype}, right is {want:.6f}")
assert result.dtype == np.float64, "changed: the result is no longer float64"
assert abs(result[1] - right[1]) > 1e-3, "changed: float64 is computed"
PY
