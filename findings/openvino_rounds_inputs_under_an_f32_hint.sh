#!/usr/bin/env bash
# openvino 2026.4.1, CPU with VNNI: weights held in 8 bits have the inputs rounded to 8 bits too, under the hint f32
#
# A good engineer would guess: weights in 8 bits with a scale each are multiplied out, and INFERENCE_PRECISION_HINT at f32
# leaves inputs and products in float32; and a group size that does not fit is refused.
#
# What happens: every 32 inputs are rounded to 8 bits with a scale of their own, unless DYNAMIC_QUANTIZATION_GROUP_SIZE is
# 0. A size that does not divide the number of inputs is taken, reported back, and turns the rounding off without a word,
# so that a size meant to be faster (one group of all inputs of the widest layer) is the slow path in the others. Seen,
# with whole steps as weights so that they lose nothing, 384 inputs, error as a share of the result:
#     as it comes: group size 32, error 5.5e-03
#     group size    0: error 3.5e-07
#     group size  128: error 6.6e-03
#     group size 1024: error 3.5e-07
#
# Why it matters: who compresses the weights of a music model to save memory, and sets float32 so that the sound stays as it
# was, hears rounding of the inputs that came with it; who tunes for speed measures no gain and drops 8 bits.
#
# Where the CPU has no VNNI, nothing is rounded at any size, and the script says so.
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

draw = np.random.default_rng(0)
steps = draw.integers(-127, 128, (256, 384)).astype(np.int8)
scale = np.full((256, 1), 1 / 127, np.float32)
given = draw.standard_normal((12, 384)).astype(np.float32)
right = given.astype(np.float64) @ (steps * scale.astype(np.float64)).T

inputs = ops.parameter(given.shape, np.float32, name="inputs")
weights = ops.multiply(ops.convert(ops.constant(steps), np.float32), ops.constant(scale))
model = ov.Model([ops.matmul(inputs, weights, False, True)], [inputs], "product")
core = ov.Core()


def error(**settings):
    compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **settings})
    got = compiled([given])[0]
    share = np.sqrt(np.mean((got - right) ** 2) / np.mean(right**2))
    return compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE"), share


size, unasked = error()
print(f"as it comes: group size {size}, error {unasked:.1e}")
seen = {}
for asked in (0, 128, 1024):
    size, seen[asked] = error(DYNAMIC_QUANTIZATION_GROUP_SIZE=asked)
    assert size == asked, "changed: the size is not what was asked"
    print(f"group size {asked:4}: error {seen[asked]:.1e}")
assert seen[0] < 1e-5, "changed: size 0 rounds"
if not any(flag in open("/proc/cpuinfo").read().split() for flag in ("avx512_vnni", "avx_vnni")):
    print("this CPU has no VNNI: nothing is rounded on it")
    raise SystemExit
assert unasked > 1e-3, "changed: inputs are whole under the hint f32"
assert seen[128] > 1e-3 and seen[1024] < 1e-5, "changed: which sizes round"
PY
