from __future__ import annotations

import pytest
import torch
from flow_models import build_inputs, build_model, play

from rtjazz_hf.flow import FlowCache


def test_drops_whole_blocks_of_any_size():
    model = build_model(patch_size=3)
    cache = model.init_cache(1, window_frames=30)
    for frames, blocks in [(12, (12,)), (6, (12, 6)), (12, (12, 6, 12)), (6, (6, 12, 6)), (24, (6, 24))]:
        model.append_to_cache(torch.randn(1, 8, frames), cache)
        assert cache.blocks == blocks
        assert cache.keys[0].shape[2] == cache.num_frames // 3
    assert cache.position.tolist() == [60]


def test_clone_has_a_future_of_its_own():
    model = build_model()
    _, cache = play(model, build_inputs(model), 6, 20)
    keys = [key.clone() for key in cache.keys]
    twin = cache.clone()
    model.append_to_cache(torch.randn(2, 8, 6), twin)
    twin.keys[0].zero_()
    assert cache.position.tolist() == [48, 48] and twin.position.tolist() == [54, 54]
    assert all(torch.equal(first, second) for first, second in zip(keys, cache.keys))


def test_rows_at_different_times_share_a_batch():
    model = build_model()
    inputs = build_inputs(model)
    caches, outputs = [], []
    block = torch.randn(2, 8, 6)
    with torch.no_grad():
        for row, start in enumerate((0, 7200)):
            single = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
            _, cache = play(model, single, 6, 20, start_frame=start)
            caches.append(cache)
            outputs.append(model(block[row : row + 1], 0.3, cache=cache).sample)
        stacked = FlowCache.stack(caches)
        torch.testing.assert_close(model(block, 0.3, cache=stacked).sample, torch.cat(outputs))
        model.append_to_cache(block, stacked)
        model.append_to_cache(block[1:], caches[1])
    assert stacked.position.tolist() == [54, 7254]
    torch.testing.assert_close(stacked.select([1]).keys[-1], caches[1].keys[-1])


def test_different_blocks_do_not_stack():
    model = build_model()
    cache = model.init_cache(1)
    with pytest.raises(ValueError, match="cannot share a batch"):
        FlowCache.stack([cache, model.append_to_cache(torch.randn(1, 8, 6), model.init_cache(1))])


def test_to_keeps_positions_whole():
    model = build_model()
    _, cache = play(model, build_inputs(model), 6, 20)
    half = cache.to(torch.bfloat16)
    assert half.keys[0].dtype == torch.bfloat16 and half.position.dtype == torch.int64
    assert half.position.tolist() == cache.position.tolist()


def test_window_beyond_training_is_refused():
    with pytest.raises(ValueError, match="window_frames is 751"):
        build_model().init_cache(1, window_frames=751)
