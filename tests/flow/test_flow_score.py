"""A flow that is told notes: plays as before until it has learnt to read, cached as uncached, saved as loaded."""

from __future__ import annotations

import pytest
import torch
from flow_models import TINY, build_inputs, build_model, play
from huggingface_hub.errors import StrictDataclassClassValidationError

from rtjazz_hf.flow import RealTimeJazzFlowTransformer, RealTimeJazzFlowTransformerConfig

TOLD = {"score_dim": 7, "score_hidden": 6}


@pytest.fixture
def model():
    return build_model(**TOLD)


@torch.no_grad()
def test_notes_are_heard_and_zeros_add_nothing(model):
    inputs = build_inputs(model)
    inputs.pop("context")
    plain = build_model()
    plain.load_state_dict(model.state_dict(), strict=False)
    untold = inputs["lead_sheet"].clone()
    untold[..., 5:] = 0
    heard = model(**inputs).sample
    silent = model(**{**inputs, "lead_sheet": untold}).sample
    assert not torch.allclose(heard, silent, atol=1e-3)
    assert torch.equal(silent, plain(**{**inputs, "lead_sheet": untold[..., :5]}).sample)


@pytest.mark.parametrize("patch", [1, 2, 3])
@torch.no_grad()
def test_cached_is_uncached(patch):
    model = build_model(patch_size=patch, **TOLD)
    inputs = build_inputs(model)
    whole = model(**inputs, block_frames=6, window_frames=12).sample
    cached, _ = play(model, inputs, block_frames=6, window_frames=12)
    torch.testing.assert_close(whole, cached, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_prepared_is_direct(model):
    inputs = build_inputs(model)
    cache = model.init_cache(2, 12)
    sheet, style = inputs["lead_sheet"][:, :6], inputs["style"]
    conditions = model.prepare_conditions(torch.tensor([0.0, 0.5]), sheet, style, cache)
    sample = inputs["sample"][..., :6]
    for step, time in enumerate((0.0, 0.5)):
        direct = model(sample, time, lead_sheet=sheet, style=style, cache=cache).sample
        prepared = model(sample, conditions=conditions, step=step, cache=cache).sample
        torch.testing.assert_close(direct, prepared, atol=1e-4, rtol=1e-4)


def test_a_model_without_notes_learns_to_read_from_where_it_was(tmp_path, model):
    build_model().save_pretrained(tmp_path)
    told = RealTimeJazzFlowTransformer.from_pretrained(tmp_path, **TOLD).eval()
    before = RealTimeJazzFlowTransformer.from_pretrained(tmp_path).eval()
    assert before.config.score_dim == 0 and before.score_embedding is None  # a checkpoint of layout 1 stays one
    inputs = build_inputs(told)
    with torch.no_grad():
        first = told(**inputs, block_frames=6).sample
        torch.testing.assert_close(
            first, before(**{**inputs, "lead_sheet": inputs["lead_sheet"][..., :5]}, block_frames=6).sample
        )
    told(**inputs, block_frames=6).sample.square().mean().backward()
    assert told.score_embedding.linear_2.weight.grad.any()


def test_saved_is_loaded(tmp_path, model):
    model.save_pretrained(tmp_path)
    loaded, info = RealTimeJazzFlowTransformer.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    inputs = build_inputs(model)
    assert torch.equal(loaded.eval()(**inputs, block_frames=6).sample, model(**inputs, block_frames=6).sample)


def test_features_of_another_layout_are_refused(model):
    inputs = build_inputs(model)
    with pytest.raises(ValueError, match=r"expected \(2, 48, 12\)"):
        model(**{**inputs, "lead_sheet": inputs["lead_sheet"][..., :5]}, block_frames=6)


@pytest.mark.parametrize("wrong, named", [
    ({"score_dim": -1}, "score_dim"),
    ({"score_dim": 3, "score_hidden": 0}, "score_hidden"),
    ({"score_dim": 3, "lead_sheet_dim": 0}, "lead_sheet_dim"),
])  # fmt: skip
def test_sizes_out_of_range(wrong, named):
    with pytest.raises(StrictDataclassClassValidationError, match=named):
        RealTimeJazzFlowTransformerConfig(**(TINY | wrong))
