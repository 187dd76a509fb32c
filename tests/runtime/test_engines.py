"""Which engines there are, and what is said of those that are not to be had."""

from __future__ import annotations

import importlib.util

import pytest

from rtjazz_hf.runtime import engines


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
        ("auto", "int8", "'int8': choose from float32, bfloat16"),
        ("torch", "bfloat16", "dtype='bfloat16'"),
    ],
)
def test_what_there_is_not(engine, precision, message):
    with pytest.raises(ValueError, match=message):
        engines.check_engine(engine, precision)
