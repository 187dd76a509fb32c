"""Shared fixtures: a pipeline of the real classes, small enough for a test."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test reaches the network; pushing: tests/hub_stub.py
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models of a test are too small to share out

import pytest
from tiny_models import build_tiny_pipeline


@pytest.fixture(scope="session")
def tiny_pipeline():
    return build_tiny_pipeline()


@pytest.fixture(scope="session")
def tiny_folder(tiny_pipeline, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "pipeline"
    tiny_pipeline.save_pretrained(folder)
    return folder
