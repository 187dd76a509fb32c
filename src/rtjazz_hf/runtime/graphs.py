"""
Graphs of tensors as other engines than torch compute them on a CPU: OpenVINO and ONNX Runtime.

A graph is made from a torch module by tracing it, so a network is written once. Number types are always set: left to
itself, OpenVINO computes float32 models in bfloat16 where the CPU can. Its front end is called directly, since its
`convert_model` also reports each conversion to its maker.
"""

from __future__ import annotations

import hashlib
import io
import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache, partial
from typing import Any, BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from .engines import check_engine, is_installed
from .kept_graphs import KeptGraph, let_go
from .mapped_weights import are_untouched, forget
from .memory import return_free_memory
from .offload import wants_calls
from .packed_linear import weights_stamp
from .precision import bfloat16_is_fast
from .threads import thread_counts

_OPSET = 18
_WORTH_A_GRAPH = 1_000_000  # weights; smaller models are played faster than a graph of them is made
_WORTH_ROUNDING = 1 << 16  # bytes of one weight
_LOOKED_AT_AT_ONCE = 1 << 26  # bytes of weights
_INPUTS_TOGETHER = 128  # of a product in 8 bits, that share a scale
_SAMPLED = 16  # values of each weight, to see that it has changed
# How far what comes out may be from torch's, as a share of the largest value.
_TOLERANCES = {"float32": 1e-3, "bfloat16": 5e-2, "int8": 1e-1}


class NotForEngine(ValueError):
    """An engine cannot take this model, or plays it otherwise than torch does."""


class OpenVINOGraph:
    """
    A module as OpenVINO computes it.

    Args:
        module: Tensors in, a tuple of tensors out; float32.
        inputs: An example of each, by name, in the module's order.
        dynamic: Of each input, the axes that may have other sizes than the example.
        precision: `"float32"`, `"bfloat16"`, or `"int8"`: products of weights and inputs in 8 bits, all else float32.
        threads: Of one call.
        anew: Whatever is kept on disk.
        whole: Names of layers whose products are not in 8 bits.

    Attributes:
        was_read: Whether it comes from disk.
        expected: What torch makes of the example. Kept beside the graph: torch would look at every weight for it.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Mapping[str, torch.Tensor],
        dynamic: Mapping[str, Sequence[int]],
        precision: str = "float32",
        threads: int = 1,
        anew: bool = False,
        whole: Sequence[str] = (),
    ):
        import openvino

        core, self.precision = _core(), precision
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # other programs run here too
        }
        if precision == "int8":
            settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = _INPUTS_TOGETHER
        sizes = [(name, each.dtype, *each.shape, dynamic.get(name)) for name, each in inputs.items()]
        cpu = [core.get_property("CPU", name) for name in ("FULL_DEVICE_NAME", "OPTIMIZATION_CAPABILITIES")]
        kept = KeptGraph(module, (openvino.__version__, cpu, settings, sizes))
        compiled, self._constants, self.expected = (None, None, None) if anew else _read(core, kept, settings, inputs)
        self.was_read = compiled is not None
        if self.expected is None:
            self.expected = _by_torch(module, inputs)
            forget(module.parameters())
        if compiled is None:
            model = _converted(module, inputs, dynamic)
            forget(module.parameters())  # whose values the model's constants look at
            if precision != "float32":
                _round_weights(model, module, precision, whole if precision == "int8" else ())
            compiled = core.compile_model(model, "CPU", settings)
            del model
            _keep(compiled, kept, inputs, self.expected)
            return_free_memory()  # a graph takes as much again while it is made
        self._compiled = compiled
        self._names = list(inputs)
        self._free: list[Any] = []  # requests that nobody uses; each holds its own workspace
        self._lock = threading.Lock()

    @contextmanager
    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> Iterator[list[Any]]:
        """What comes out, as arrays that are valid inside the `with` alone."""
        with self._lock:
            request = self._free.pop() if self._free else self._compiled.create_infer_request()
        try:
            arrays = {index: inputs[name].numpy() for index, name in enumerate(self._names)}
            results = request.infer(arrays, share_inputs=True, share_outputs=True)
            yield [results[index] for index in range(len(results))]
        finally:
            with self._lock:
                self._free.append(request)


@cache
def _core() -> Any:
    """OpenVINO's core, one for as long as the process lives. Each gives the thread a stack for signals, and when it
    goes the one before, which may be gone by then: the next Ctrl-C would end in a segmentation fault."""
    import openvino

    return openvino.Core()


def _converted(module: nn.Module, inputs: Mapping[str, torch.Tensor], dynamic: Mapping[str, Sequence[int]]) -> Any:
    """OpenVINO's model of a module; arguments as of `OpenVINOGraph`."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    examples = tuple(inputs.values())
    with _tracing():
        traced = torch.jit.trace(module, examples, check_trace=False)
        # The front end asks Python about every node, of which two thirds say what others say.
        for tidy in (torch._C._jit_pass_inline, torch._C._jit_pass_constant_pooling, torch._C._jit_pass_cse):
            tidy(traced.graph)
        decoder = TorchScriptPythonDecoder(traced, example_input=examples)
        front_end = FrontEndManager().load_by_framework("pytorch")
        model = front_end.convert(front_end.load(decoder))
    shapes = {}
    for port, (name, example) in zip(model.inputs, inputs.items(), strict=True):
        free = dynamic.get(name, ())
        shapes[port] = openvino.PartialShape([-1 if axis in free else size for axis, size in enumerate(example.shape)])
    model.reshape(shapes)
    return model


def _round_weights(model: Any, module: nn.Module, precision: str, whole: Sequence[str]) -> None:
    """
    Round the weights of a model's products where they lie, one after the other, so that none is there twice: to
    bfloat16, as they are rounded for the product (the file has half the size, and reading it takes a fifth less time),
    or to 8 bits, a scale for each output.

    Args:
        module: Of which the model was made.
        whole: Names of layers that stay as they are.

    Raises:
        NotForEngine: No product can be in 8 bits.
    """
    import openvino

    rounded: dict[str, Any] = {}  # by the name of what it is in place of
    looked_at = 0  # bytes
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul":
            continue
        source = product.input_value(1).get_node()
        beside = source.get_type_name() == "Concat"
        parts = [each.get_node() for each in (source.input_values() if beside else [product.input_value(1)])]
        size = sum(each.get_byte_size() for each in parts if each.get_type_name() == "Constant")
        axis_of_inputs = -1 if product.get_attributes()["transpose_b"] else -2
        if (
            any(each.get_type_name() != "Constant" or each.get_element_type() != openvino.Type.f32 for each in parts)
            or size < _WORTH_ROUNDING
            or any(part in each.get_friendly_name().split(".") for each in parts for part in whole)
            # OpenVINO takes other widths too, and multiplies whole inputs without a word.
            or (precision == "int8" and source.get_output_shape(0)[axis_of_inputs] % _INPUTS_TOGETHER)
        ):
            continue
        name = source.get_friendly_name()
        if name not in rounded:
            axis = source.get_attributes()["axis"] if beside else 0
            weight = torch.cat([torch.tensor(each.data) for each in parts], dim=axis)
            rounded[name] = _in_bfloat16(weight) if precision == "bfloat16" else _in_8_bits(weight, axis_of_inputs)
            if (looked_at := looked_at + size) > _LOOKED_AT_AT_ONCE:
                forget(module.parameters())
                looked_at = 0
        product.input(1).replace_source_output(rounded[name].output(0))
    forget(module.parameters())
    if precision == "int8" and not rounded:
        raise NotForEngine(f"no large layer has a multiple of {_INPUTS_TOGETHER} inputs, as 8 bits want")


def _in_bfloat16(weight: torch.Tensor) -> Any:
    """A weight as the node of a model that hands it out in float32."""
    import openvino
    from openvino.opset13 import convert

    held = openvino.Tensor(openvino.Type.bf16, openvino.Shape(weight.shape))
    held.data.view(np.int16)[:] = weight.bfloat16().view(torch.int16).numpy()
    whole = convert(openvino.op.Constant(held), openvino.Type.f32)
    whole.get_rt_info()["decompression_0"] = ""  # else it is folded into what it was
    return whole


def _in_8_bits(weight: torch.Tensor, axis_of_inputs: int) -> Any:
    """The same, of steps of -127 to 127 and their size for each output."""
    import openvino
    from openvino.opset13 import convert, multiply

    size = weight.abs().amax(axis_of_inputs, keepdim=True).clamp_min(1e-12) / 127
    steps = (weight / size).round().to(torch.int8)
    whole = convert(openvino.op.Constant(steps.numpy()), openvino.Type.f32)
    return multiply(whole, openvino.op.Constant(size.numpy()))


def _read(
    core: Any, kept: KeptGraph, settings: dict[str, Any], inputs: Mapping[str, torch.Tensor]
) -> tuple[Any, Any, list[torch.Tensor] | None]:
    """The compiled model that is kept, the bytes it looks at, which have to live as long, and what torch made of these
    inputs, if it was these; `None` for what there is not."""
    import openvino

    found = kept.read()
    if found is None:
        return None, None, None
    content, length, note = found
    constants = openvino.Tensor(np.frombuffer(content, np.uint8, length), shared_memory=True)
    try:
        compiled = core.import_model(constants, "CPU", settings)
        digest = _digest_of(inputs)
        same = note.startswith(digest)
        expected = [each for _, each in sorted(load(note[len(digest) :]).items())] if same else None
    except (RuntimeError, TypeError, SafetensorError):  # not written by this OpenVINO
        return None, None, None
    let_go(content)  # weights are laid out anew for the processor
    return compiled, content, expected


def _keep(
    compiled: Any, kept: KeptGraph, inputs: Mapping[str, torch.Tensor], expected: list[torch.Tensor]
) -> None:
    def export(file: BinaryIO) -> None:
        written = _Written(file)
        compiled.export_model(written)
        if written.error is not None:
            raise written.error

    note = save({f"{index:03}": tensor.contiguous() for index, tensor in enumerate(expected)})
    with suppress(RuntimeError):  # then it is made again the next time
        kept.write(export, _digest_of(inputs) + note)


def _digest_of(inputs: Mapping[str, torch.Tensor]) -> bytes:
    told = hashlib.sha256()
    for tensor in inputs.values():
        told.update(tensor.contiguous().numpy())
    return told.digest()


class _Written(io.BytesIO):
    """A file as OpenVINO takes one, which writes into nothing else: what it writes into memory is held twice more. It
    does not hear of an error, which is kept."""

    def __init__(self, file: BinaryIO):
        super().__init__()
        self._file, self.error = file, None
        self.seek, self.flush = file.seek, file.flush

    def write(self, piece: bytes) -> int:
        try:
            return self._file.write(piece)
        except OSError as error:
            self.error = error
            raise


class OnnxGraph:
    """A module as ONNX Runtime computes it, in float32; arguments and calls as of `OpenVINOGraph`."""

    precision = "float32"
    was_read = False

    def __init__(
        self,
        module: nn.Module,
        inputs: Mapping[str, torch.Tensor],
        dynamic: Mapping[str, Sequence[int]],
        precision: str = "float32",
        threads: int = 1,
        anew: bool = False,
        whole: Sequence[str] = (),
    ):
        import onnxruntime

        self.expected = _by_torch(module, inputs)
        written = io.BytesIO()
        axes = {name: {axis: f"{name}_{axis}" for axis in axes} for name, axes in dynamic.items() if axes}
        with _tracing():
            torch.onnx.export(
                module, tuple(inputs.values()), written, dynamo=False, opset_version=_OPSET, dynamic_axes=axes,
                input_names=list(inputs),
            )  # fmt: skip
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other programs run here too
        self._session = onnxruntime.InferenceSession(
            written.getvalue(), options, providers=["CPUExecutionProvider"]
        )
        self._names = list(inputs)

    @contextmanager
    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> Iterator[list[Any]]:
        yield self._session.run(None, {name: inputs[name].numpy() for name in self._names})


@contextmanager
def _tracing() -> Iterator[None]:
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracers, about shapes that are fixed and about their own successors
        yield


_GRAPHS = {"openvino": OpenVINOGraph, "onnx": OnnxGraph}


class ModuleEngine:
    """
    Part of a model as an engine computes it, as long as its weights are what they were when this was made.

    Args:
        owner: Whose weights are looked at: see `is_current`.
        graph: Tensors in, a tuple of tensors out; in evaluation mode.
        engine: `"openvino"` or `"onnx"`. inputs, dynamic, precision, whole: As of `OpenVINOGraph`.

    Raises:
        NotForEngine: The engine does not take the graph, or gives something else than torch.

    Attributes:
        pays_in_float32: Whether it takes less time than torch there.
    """

    pays_in_float32 = True

    def __init__(
        self,
        owner: nn.Module,
        graph: nn.Module,
        engine: str,
        inputs: Mapping[str, torch.Tensor],
        dynamic: Mapping[str, Sequence[int]],
        precision: str = "float32",
        whole: Sequence[str] = (),
    ):
        check_plain(owner)
        self.engine, self._whole = engine, whole
        self._stamp, self._samples = weights_stamp(owner), _samples(owner)
        self.precision = precision
        self._graph = self.make_graph(graph, inputs, dynamic)
        forget(owner.parameters())

    def make_graph(
        self, graph: nn.Module, inputs: Mapping[str, torch.Tensor], dynamic: Mapping[str, Sequence[int]]
    ) -> OpenVINOGraph | OnnxGraph:
        """`graph` as the engine computes it, which is near enough; arguments and errors as above."""
        threads = thread_counts()[0]
        make = partial(_GRAPHS[self.engine], graph, inputs, dynamic, self.precision, threads, whole=self._whole)
        for anew in (False, True):  # what was read from disk may be damaged, in ways that nobody thought of
            made = None
            try:
                made = make(anew=anew)
                self.precision = made.precision
                off, why = _difference(made, inputs), None
            except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
                off, why = math.inf, error
            if off <= _TOLERANCES[self.precision]:
                return made
            if made is None or not made.was_read:
                break
        if why is not None:
            lines = str(why).strip().splitlines() or [type(why).__name__]
            raise NotForEngine(f"it cannot be converted ({lines[0]})") from why
        raise NotForEngine(f"it is off by {off:.1e} of the largest value in {self.precision}")

    @classmethod
    def quick_precisions(cls) -> list[str]:
        """What this CPU computes faster than float32 with OpenVINO, the fastest first."""
        return ["bfloat16"] if bfloat16_is_fast() else []

    def run(
        self, inputs: Mapping[str, torch.Tensor], graph: OpenVINOGraph | OnnxGraph | None = None
    ) -> AbstractContextManager[list[Any]]:
        """What comes out of the graph, or of another one, as arrays that are valid inside the `with` alone."""
        return (graph or self._graph)({name: tensor.detach().contiguous() for name, tensor in inputs.items()})

    def is_current(self, owner: nn.Module, stamp: list | None = None, exact: bool = False) -> bool:
        """
        Whether `owner` is as it was; blind to edits through `weight.data` unless `exact`.

        Args:
            stamp: What `weights_stamp` says of it now, where that is known.
        """
        if self._stamp != (weights_stamp(owner) if stamp is None else stamp):
            return False
        if not exact or are_untouched(owner.parameters()):
            return True
        return torch.equal(self._samples, _samples(owner))

    def __deepcopy__(self, memo: dict) -> None:
        return None  # a copied or pickled model makes its own

    def __reduce__(self) -> tuple:
        return type(None), ()


def _by_torch(graph: nn.Module, inputs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(graph(*inputs.values()))


def _difference(made: OpenVINOGraph | OnnxGraph, inputs: Mapping[str, torch.Tensor]) -> float:
    with made(inputs) as given:
        return max(
            float((torch.from_numpy(array) - tensor).abs().max() / tensor.abs().max().clamp_min(1e-6))
            for array, tensor in zip(given, made.expected, strict=True)
        )


def make_engine(
    kind: type[ModuleEngine], model: nn.Module, engine: str, precision: str
) -> ModuleEngine | None:
    """
    `kind` of a model by the engine that was asked for, one of `engines.ENGINES`; `None` where torch is to play, with
    a warning that says why, unless that was to be expected, as where "auto" would not pay.

    Precision "auto" is the first of `quick_precisions` with OpenVINO whose result is near enough, and float32 else.

    Raises:
        ValueError, ImportError: As `engines.check_engine`.
    """
    check_engine(engine, precision)
    chosen = "openvino" if engine == "auto" else engine
    if chosen == "torch" or not is_installed(chosen):
        return None
    if engine == "auto" and (
        (model.device.type, model.dtype) != ("cpu", torch.float32)  # what was asked for by another name
        or torch.cuda.is_available()  # the model is going there
        or sum(weight.numel() for weight in model.parameters()) < _WORTH_A_GRAPH
    ):
        return None
    if precision == "auto":
        for quick in kind.quick_precisions() if chosen == "openvino" else ():
            with suppress(NotForEngine):  # what else it is not for is told below
                return kind(model, chosen, quick)
        precision = "float32"
    if engine == "auto" and precision == "float32" and not kind.pays_in_float32:
        return None
    try:
        return kind(model, chosen, precision)
    except NotForEngine as error:
        warnings.warn(f"torch plays this {type(model).__name__}, not {chosen}: {error}", stacklevel=4)
        return None


def unless_stale(
    made: ModuleEngine | None, owner: nn.Module, stamp: list | None = None, exact: bool = False
) -> ModuleEngine | None:
    """`made`, as long as `owner` is what it was made of: else `None`, with a warning. Arguments as of `is_current`."""
    if made is None or made.is_current(owner, stamp, exact):
        return made
    if all(weight.device.type == "cpu" for weight in owner.parameters()):
        warnings.warn(
            f"the weights have changed since the graph for {made.engine} was made: torch plays on; call use_engine for "
            "a new graph",
            stacklevel=4,
        )
    return None


def check_plain(model: nn.Module) -> None:
    """
    Refuse a model that is not float32 on the CPU, or does more than its classes say.

    Raises:
        NotForEngine: Says what it is.
    """
    for name, module in model.named_modules():
        if wants_calls([module]):
            raise NotForEngine(f"something hangs on {name or type(module).__name__}: a hook, or another forward")
    for weight in model.parameters():
        if weight.device.type != "cpu":
            raise NotForEngine(f"the model is on {weight.device}; engines other than torch play on the CPU")
        if weight.dtype != torch.float32:
            raise NotForEngine(f"the weights are {weight.dtype}; engines take float32 and convert them themselves")


def _samples(model: nn.Module) -> torch.Tensor:
    """Some values of every weight: adapters are merged through `weight.data`."""
    samples = []
    for weight in model.parameters():
        samples.append(weight.detach().flatten()[:: max(1, weight.numel() // _SAMPLED)].clone())
        forget([weight])
    return torch.cat(samples)


__all__ = ["ModuleEngine", "NotForEngine", "OnnxGraph", "OpenVINOGraph", "check_plain", "make_engine", "unless_stale"]
