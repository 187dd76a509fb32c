"""Which engines there are, and what is said of those that are not to be had."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from rtjazz_hf.flow import engine_steps
from rtjazz_hf.runtime import engines, graphs


@pytest.mark.parametrize(("engine", "extra"), [("openvino", "fast"), ("onnx", "onnx")])
def test_an_engine_that_is_not_installed_is_named_with_the_command(monkeypatch, engine, extra):
    found = importlib.util.find_spec
    absent = ("openvino", "onnxruntime")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else found(name))
    with pytest.raises(ImportError, match=rf"pip install 'rtjazz-hf\[{extra}\]'"):
        engines.check_engine(engine)
    engines.check_engine("auto")
    engines.check_engine("torch")


@pytest.mark.parametrize(
    ("engine", "precision", "message"),
    [
        ("tensorrt", "float32", "'tensorrt': choose from auto, torch, openvino, onnx"),
        ("auto", "int4", "'int4': choose from auto, float32, bfloat16, int8"),
        ("torch", "bfloat16", "dtype='bfloat16'"),
        ("torch", "int8", r"pipe.quantize\('int8'\)"),
        ("onnx", "int8", "engine_precision='float32'"),
    ],
)
def test_what_there_is_not(engine, precision, message):
    with pytest.raises(ValueError, match=message):
        engines.check_engine(engine, precision)


@pytest.mark.parametrize(
    ("fast", "near", "precision"),
    [
        (("int8", "bfloat16"), ("int8", "bfloat16"), "int8"),
        (("int8", "bfloat16"), ("bfloat16",), "bfloat16"),
        (("int8",), (), "float32"),
        (("bfloat16",), ("int8", "bfloat16"), "bfloat16"),
        ((), ("int8", "bfloat16"), "float32"),
    ],
)
def test_the_precision_is_what_the_cpu_is_fast_in_and_the_model_bears(monkeypatch, fast, near, precision):
    pytest.importorskip("openvino")
    monkeypatch.setattr(graphs, "bfloat16_is_fast", lambda: "bfloat16" in fast)  # another CPU
    monkeypatch.setattr(engine_steps, "int8_is_fast", lambda: "int8" in fast)

    class Steps(engine_steps.EngineSteps):
        def __init__(self, model, engine, precision):
            if precision not in (*near, "float32"):
                raise graphs.NotForEngine("it is off")
            self.engine, self.precision = engine, precision

    made = graphs.make_engine(Steps, torch.nn.Linear(1, 1), "openvino", "auto")
    assert (made.engine, made.precision) == ("openvino", precision)
