"""Adapters for the tests: their folders, and the tiny pipeline with them."""

from __future__ import annotations

import pytest
import torch
from tiny_models import make_adapter


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of three adapters; not to be written to."""
    pytest.importorskip("peft", reason="peft makes the adapters (the train extra)")
    root = tmp_path_factory.mktemp("adapters")
    make_adapter(root / "a", 1, style_name="Anna Blue")
    make_adapter(root / "b", 2, rank=2)
    make_adapter(root / "dora", 3, use_dora=True)
    return root


@pytest.fixture
def pipe(tiny_pipeline, folders):
    """The tiny pipeline with adapters a and b; as it was before, afterwards."""
    tiny_pipeline.load_lora_weights(folders / "a", "a")
    tiny_pipeline.load_lora_weights(folders / "b", "b")
    tiny_pipeline.disable_lora()
    yield tiny_pipeline
    if tiny_pipeline._adapters.fused:
        tiny_pipeline.unfuse_lora()
    tiny_pipeline.unload_lora_weights()
    tiny_pipeline.enable_lora()


@pytest.fixture
def weights(tiny_pipeline):
    """A check that the transformer's weights are what they were, to the bit."""
    before = {name: value.clone() for name, value in tiny_pipeline.transformer.state_dict().items()}

    def unchanged():
        after = tiny_pipeline.transformer.state_dict()
        return after.keys() == before.keys() and all(torch.equal(after[n], before[n]) for n in before)

    return unchanged
