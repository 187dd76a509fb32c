"""Weights of exported graphs in 8 bits, by onnxruntime's dynamic quantisation; for `export_onnx.py --int8`.

onnxruntime takes only weights that go straight into a product, and says nothing of those that it leaves: PyTorch's
exporter puts a Transpose before each. So these are folded first, and the products are counted afterwards.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from types import ModuleType

import numpy as np

GRAPHS = ("flow_step", "flow_append")
# Of `rtjazz_hf.runtime.quantization`: attention and MLP; what handles conditions and outputs is small and decides much.
_QUANTIZED = re.compile(r"layers\.\d+\.(self_attn|cross_attn|mlp)\.")


def fold_transposes(graph) -> dict[str, str]:
    """Let every Transpose of a constant be a constant; the name of the weight behind each product of two axes."""
    from onnx import numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer}
    turned: dict[str, str] = {}
    kept = []
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] in weights:
            order = next((list(each.ints) for each in node.attribute if each.name == "perm"), None)
            array = np.ascontiguousarray(numpy_helper.to_array(weights[node.input[0]]).transpose(order))
            graph.initializer.append(numpy_helper.from_array(array, node.output[0]))
            turned[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    del graph.node[:]
    graph.node.extend(kept)
    used = {name for node in kept for name in node.input}
    left = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(left)
    constants = {tensor.name for tensor in left}
    return {
        node.name: turned.get(node.input[1], node.input[1])
        for node in kept
        if node.op_type == "MatMul" and node.input[1] in constants
    }


def quantize_graph(path: Path) -> int:
    """Hold the attention's and MLP's weights of one graph in 8 bits, in its place; how many products that are.

    Weights have 7 bits and a sign less than they could: with 8, CPUs without VNNI saturate.

    Raises:
        ValueError: onnxruntime left one of them as it was.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    chosen = [name for name, weight in fold_transposes(model.graph).items() if _QUANTIZED.search(weight)]
    whole = path.with_suffix(".whole.onnx")
    onnx.save(model, whole)
    try:
        quantize_dynamic(
            whole, path, nodes_to_quantize=chosen, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8
        )
    finally:
        whole.unlink()
    count = sum(node.op_type == "MatMulInteger" for node in onnx.load(path).graph.node)
    if not chosen or count != len(chosen):
        raise ValueError(f"{path.name}: {count} of {len(chosen)} products have 8-bit weights; nothing was written")
    print(f"{path.name:20} {path.stat().st_size / 1e6:7.1f} MB, {count} products with 8-bit weights")
    return count


def compare_steps(runtime: ModuleType, folder: Path, whole: dict, seed: int = 1) -> tuple[float, float]:
    """What 8 bits cost and save, step by step over the folder's performance, at the states that the whole graphs come
    through: root mean square of the velocity's error, relative, and CPU time, as a share of the whole one's.

    Args:
        runtime: `onnx_stream.py`. whole: the graphs before they were quantised, of its `load_graphs`.
    """
    small = runtime.load_graphs(folder)["flow_step"]
    settings, style, lead_sheet = runtime.load_performance(folder)
    squares, seconds = np.zeros(2), np.zeros(2)  # of the 8-bit steps, of the whole ones

    class Beside(runtime.OnnxStream):
        def run(self, name: str, **inputs: np.ndarray) -> dict[str, np.ndarray]:
            began = time.process_time()
            result = super().run(name, **inputs)
            if name == "flow_step":
                middle = time.process_time()
                velocity, other = result["velocity"].astype(np.float64), small.run(None, inputs)[0]
                seconds[:] += time.process_time() - middle, middle - began
                squares[:] += np.square(other - velocity).sum(), np.square(velocity).sum()
            return result

    player, block = Beside(whole, settings), settings["block_frames"]
    for start, noise in zip(range(0, lead_sheet.shape[1], block), runtime.draw_noise(settings, seed)):
        player.block(noise, style, lead_sheet[:, start : start + block])
    return float(np.sqrt(squares[0] / squares[1])), float(seconds[0] / seconds[1])
