#!/usr/bin/env bash
# onnxruntime 1.32.0 (onnx 1.23.2): quantize_dynamic leaves a weight as it is when a Transpose stands before the MatMul
#
# A good engineer would guess: quantize_dynamic makes the constant weights of all MatMuls 8-bit, however the exporter laid them out.
#
# What happens: only a weight that goes straight into the MatMul is found. PyTorch's linear layers are often exported as
# weight -> Transpose -> MatMul; the "quantised" model is then the float model again. The only line printed is the one about
# pre-processing that the good case prints too. Seen:
#     weight -> MatMul:               262246 bytes become  66127: ['DynamicQuantizeLinear', 'Mul', 'MatMulInteger', 'Cast', 'Mul']
#     weight -> Transpose -> MatMul:  262282 bytes become 262363: ['Transpose', 'MatMul']
#
# Why it matters: the model is four times as large and as slow as was planned, and passes every test of quality, since it was not
# quantised. Fold the constants first, then look for MatMulInteger in the result.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv --without-pip venv
python3 -m pip --python venv/bin/python install --quiet --no-compile numpy==2.4.6 onnx==1.23.2 onnxruntime==1.32.0
venv/bin/python - <<'PY'
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

weight = np.random.default_rng(0).standard_normal((256, 256)).astype(np.float32)


def quantised(transposed):
    if transposed:
        nodes = [helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]), helper.make_node("MatMul", ["x", "wt"], ["y"])]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    stored = weight if transposed else np.ascontiguousarray(weight.T)
    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 256])
    graph = helper.make_graph(nodes, "linear", [value("x")], [value("y")], [numpy_helper.from_array(stored, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, "float.onnx")
    quantize_dynamic("float.onnx", "int8.onnx", weight_type=QuantType.QInt8)
    kinds = [node.op_type for node in onnx.load("int8.onnx").graph.node]
    return os.path.getsize("float.onnx"), os.path.getsize("int8.onnx"), kinds


direct, behind = quantised(False), quantised(True)
print("weight -> MatMul:               {} bytes become {:6}: {}".format(*direct))
print("weight -> Transpose -> MatMul:  {} bytes become {:6}: {}".format(*behind))
assert "MatMulInteger" in direct[2], "the plain weight is not quantised either"
assert "MatMulInteger" not in behind[2] and behind[1] >= behind[0], "changed: the weight is quantised now"
PY
