"""
Linear layers in the layout that a CPU multiplies fastest, for generation.

A block is few tokens, so a step spends its time on reading weights. oneDNN multiplies weights that it may lay
out in blocks beforehand up to two or three times faster than row-major ones, and layers that read the same
input become one product. The weights stay where they are: this is a copy beside them, made by
`RealTimeJazzFlowTransformer.pack_weights`, used without gradients only, and let go of when a weight changes.
It needs two operators of torch that have no public name (torch.compile uses them for frozen models); where they
are missing, or give something else, layers are called as they are.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .offload import modules_inside

_TOKENS = 16  # about what a block has: oneDNN is told, and picks its layout by it
_SAMPLED_ROWS = 8  # of each weight, to see that it has changed


class PackedProduct:
    """
    The product of one input with the weights of several `nn.Linear`, their outputs side by side.

    Raises:
        RuntimeError: This build of torch or this machine has no packed product for such weights.
    """

    def __init__(self, layers: tuple[nn.Linear, ...]):
        with torch.no_grad():
            weight = torch.cat([layer.weight for layer in layers])
            biases = [layer.bias for layer in layers]
            self.bias = torch.cat(biases) if all(bias is not None for bias in biases) else None
            self.dtype = weight.dtype
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _TOKENS)
            self.state = [[layer, *_state(layer)] for layer in layers]
            self.samples = [_sample(layer).clone() for layer in layers]
            probe = weight[:3].contiguous()
            expected = F.linear(probe, weight, self.bias)
            difference = (self(probe) - expected).abs().max()
            if not difference <= 0.02 * expected.abs().max():
                raise RuntimeError(f"the packed product is off by {float(difference)}")

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self.weight, self.bias, "none", [], "")

    def is_current(self, layers: tuple[nn.Module, ...]) -> bool:
        """Whether it was made of these layers as they are; blind to changes through `weight.data`."""
        return len(layers) == len(self.state) and all(
            layer is source and _state(source) == state for layer, (source, *state) in zip(layers, self.state)
        )

    def is_exact(self, layers: tuple[nn.Module, ...]) -> bool:
        """As `is_current`, and looks at rows of the weights themselves: adapters are merged through `.data`."""
        return self.is_current(layers) and all(
            torch.equal(sample, _sample(layer)) for layer, sample in zip(layers, self.samples)
        )

    def __deepcopy__(self, memo: dict) -> None:
        return None  # a copied or pickled model packs its own

    def __reduce__(self) -> tuple:
        return type(None), ()


class Int8Product(PackedProduct):
    """
    The same of 8-bit layers of bitsandbytes, whose weights are used as they are: nothing is copied.

    Only the weights are in 8 bits, which is both nearer to the whole ones than LLM.int8(), which rounds the
    inputs too, and faster for the few tokens of a block.
    """

    def __init__(self, layers: tuple[nn.Module, ...]):
        self.layers = [(layer.weight.data, _int8_scales(layer) / 127, layer.bias) for layer in layers]
        self.dtype = None  # takes any
        self.state = [[layer, *_state(layer)] for layer in layers]
        self.samples = [_sample(layer).clone() for layer in layers]

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.flatten(0, -2).contiguous()
        outputs = []
        for weight, scales, bias in self.layers:
            output = torch._weight_int8pack_mm(rows, weight, scales.to(rows.dtype))
            outputs.append(output if bias is None else output + bias)
        joined = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        return joined.unflatten(0, hidden.shape[:-1])


def _int8_scales(layer: nn.Module) -> torch.Tensor:
    """The largest magnitude of each row of an 8-bit layer: bitsandbytes moves it when the layer is first called."""
    scales = getattr(layer.weight, "SCB", None)
    return layer.state.SCB if scales is None else scales


def _state(layer: nn.Linear) -> list:
    parameters = [parameter for parameter in layer._parameters.values() if parameter is not None]
    return [value for each in parameters for value in (each.data_ptr(), each._version)]


def weights_stamp(model: nn.Module) -> list[tuple[int, int]]:
    """Changes with every weight of a model that is replaced or written to, but through `weight.data`."""
    return [
        (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        for module in modules_inside(model)
        for weight in module._parameters.values()
        if weight is not None
    ]


def _sample(layer: nn.Linear) -> torch.Tensor:
    return layer.weight[:: max(1, layer.out_features // _SAMPLED_ROWS)]


def _is_plain(layer: nn.Module, kind: str = "Linear") -> bool:
    """A layer of this class that does nothing else: no adapter, no hook."""
    return (
        type(layer).__name__ == kind
        and isinstance(layer, nn.Linear)
        and layer.weight.device.type == "cpu"
        and not layer.weight.is_inference()
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and "forward" not in layer.__dict__
    )


def pack(*layers: nn.Module) -> None:
    """Make the packed product of layers that read one input, unless it is there and right."""
    packed = layers[0].__dict__.get("_packed")
    for kind, product in (("Linear", PackedProduct), ("Linear8bitLt", Int8Product)):
        if not all(_is_plain(layer, kind) for layer in layers):
            continue
        if packed is not None and packed.is_exact(layers):
            return
        try:
            layers[0]._packed = product(layers)
            return
        except (RuntimeError, AttributeError):  # no such operator, or not for this type
            pass
    layers[0].__dict__.pop("_packed", None)


def drop_stale(*layers: nn.Module) -> None:
    """Let go of the packed product of layers that are not what it was made of."""
    packed = layers[0].__dict__.get("_packed")
    if packed is not None and not packed.is_current(layers):
        layers[0].__dict__.pop("_packed", None)


def unpack(*layers: nn.Module) -> None:
    """Let go of the packed product of layers."""
    layers[0].__dict__.pop("_packed", None)


def linear(hidden: torch.Tensor, *layers: nn.Module) -> torch.Tensor:
    """
    The outputs of layers that read one input, side by side: by their packed product where they have one.

    It is not asked here whether the product is still right: `drop_stale` does that once per block.
    """
    packed = layers[0].__dict__.get("_packed")
    if (
        packed is not None
        and packed.dtype in (hidden.dtype, None)
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
    ):
        return packed(hidden)
    if len(layers) > 1 and torch.jit.is_tracing() and all(layer.bias is None for layer in layers):
        return F.linear(hidden, torch.cat([layer.weight for layer in layers]))  # a constant of the graph
    outputs = [layer(hidden) for layer in layers]
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


__all__ = ["drop_stale", "linear", "pack", "unpack", "weights_stamp"]
