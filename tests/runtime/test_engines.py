"""Which engines there are, and what is said of those that are not to be had."""

from __future__ import annotations

import importlib.util

import pytest
import torch

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
        ("auto", "int8", "'int8': choose from auto, float32, bfloat16"),
        ("torch", "bfloat16", "dtype='bfloat16'"),
    ],
)
def test_what_there_is_not(engine, precision, message):
    with pytest.raises(ValueError, match=message):
        engines.check_engine(engine, precision)


@pytest.mark.parametrize(("fast", "near", "precision"), [(1, 1, "bfloat16"), (1, 0, "float32"), (0, 1, "float32")])
def test_the_precision_is_what_the_cpu_is_fast_in_and_the_model_bears(monkeypatch, fast, near, precision):
    pytest.importorskip("openvino")
    monkeypatch.setattr(graphs, "bfloat16_is_fast", lambda: bool(fast))  # another CPU

    def kind(model, engine, precision):
        if precision == "bfloat16" and not near:
            raise graphs.NotForEngine("it is off")
        return engine, precision

    made = graphs.make_engine(kind, torch.nn.Linear(1, 1), "openvino", "auto")
    assert made == ("openvino", precision)
