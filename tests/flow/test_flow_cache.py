from __future__ import annotations

import json

import pytest
import torch
from flow_models import build_inputs, build_model, play
from safetensors.torch import load_file, save_file

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


def hear(model, blocks, window_frames=30, seed=0, start_frame=0):
    """A cache that has heard random blocks of these sizes, and the clean frames."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randn(1, model.config.num_channels, sum(blocks), generator=generator)
    cache = model.init_cache(1, window_frames, start_frame)
    for block in clean.split(blocks, dim=-1):
        model.append_to_cache(block, cache)
    return cache, clean


def close(first, second, tolerance=1e-5):
    torch.testing.assert_close(first, second, atol=tolerance, rtol=tolerance)


def listen(model, cache, rows=None, frames=12):
    """What a block that is the same in every call makes of the past."""
    generator = torch.Generator().manual_seed(9)
    sample = torch.randn(1, model.config.num_channels, frames, generator=generator)
    with torch.no_grad():
        return model(sample.expand(rows or cache.batch_size, -1, -1), 0.4, cache=cache).sample


SIZES = [(12, 6, 24, 6, 6, 12, 24, 6, 24, 12), (6,) * 12, (24, 6, 24, 6, 24), (36, 48, 6)]


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("window", [0, 10, 30, 300])
def test_changing_block_sizes_equal_a_cache_that_never_moved(sizes, window):
    """The blocks that are left, heard again by an empty cache of the same place: no move may have lost one."""
    model = build_model(patch_size=3, num_hidden_layers=1)  # whose keys and values know one block alone
    cache, clean = hear(model, sizes, window)
    kept = cache.blocks
    assert kept == sizes[len(sizes) - len(kept) :] and sum(kept) <= window
    start = sum(sizes) - sum(kept)
    fresh = model.init_cache(1, 300, start_frame=start)
    for block in clean[..., start:].split(kept, dim=-1) if kept else ():
        model.append_to_cache(block, fresh)
    for ours, theirs in zip(cache.keys + cache.values, fresh.keys + fresh.values):
        close(ours, theirs)
    close(listen(model, cache), listen(model, fresh))


def test_changing_block_sizes_equal_the_whole_window():
    """While nothing falls out, a deep model hears the past as it does through one long row of masks."""
    model = build_model()
    cache, clean = hear(model, (6, 12, 6, 24), window_frames=48)
    whole = model.init_cache(1, 48)
    for first, frames in ((0, 6), (6, 12), (18, 6), (24, 24)):
        before = whole
        whole = FlowCache.from_state_dict(before.state_dict())  # buffers that know no history
        model.append_to_cache(clean[..., first : first + frames], whole)
    close(listen(model, cache), listen(model, whole), 0)


def test_buffers_are_allocated_once_and_written_in_place():
    model = build_model(patch_size=3)
    cache = model.init_cache(1, window_frames=100)
    places = set()
    for frames in (36, 6, 48, 24, 12, 36, 36, 48, 48):
        listen(model, cache, rows=2, frames=frames)
        listen(model, cache, rows=1, frames=frames)
        model.append_to_cache(torch.randn(1, 8, frames), cache)
        places.add(tuple(buffer.data_ptr() for buffer in cache._keys + cache._values))
    assert len(places) == 1 and cache._keys[0].shape[0] == 2


def test_blocks_larger_than_any_block_size_grow_the_buffers():
    model = build_model()
    cache, clean = hear(model, (60, 12), window_frames=80)
    again = model.init_cache(1, 80)
    listen(model, again, rows=2, frames=90)  # grown before it hears anything
    for block in clean.split((60, 12), dim=-1):
        model.append_to_cache(block, again)
    assert cache.blocks == again.blocks == (60, 12)
    close(listen(model, cache, frames=90), listen(model, again, frames=90), 0)


def test_forward_leaves_the_past_as_it_was():
    model = build_model()
    cache, _ = hear(model, (12, 12, 12))
    before = cache.keys + cache.values
    first = listen(model, cache, rows=3)
    listen(model, cache, frames=24)
    assert all(torch.equal(a, b) for a, b in zip(before, cache.keys + cache.values))
    assert torch.equal(first, listen(model, cache, rows=3))


def test_rows_of_different_histories_play_as_they_do_alone():
    model = build_model(patch_size=3)
    histories = [(), (12,), (12, 6, 12, 24), (6,) * 7, (12, 12, 12)]
    singles = [hear(model, sizes, seed=row, start_frame=6 * row)[0] for row, sizes in enumerate(histories)]
    batch = FlowCache.stack(singles)
    assert batch.histories == [cache.blocks for cache in singles]
    with pytest.raises(ValueError, match="heard different blocks"):
        batch.blocks  # noqa: B018
    for step, frames in enumerate((12, 6, 24, 12, 12, 12)):
        close(listen(model, batch), torch.cat([listen(model, cache) for cache in singles]))
        twice = listen(model, batch, rows=2 * len(singles))
        close(twice, torch.cat([listen(model, cache) for cache in singles * 2]))
        block = torch.randn(len(singles), 8, frames, generator=torch.Generator().manual_seed(step))
        model.append_to_cache(block, batch)
        for row, cache in enumerate(singles):
            model.append_to_cache(block[row : row + 1], cache)
        for row, cache in enumerate(singles):
            alone = batch.select([row])
            assert alone.blocks == cache.blocks and alone.position.tolist() == cache.position.tolist()
            for ours, theirs in zip(alone.keys + alone.values, cache.keys + cache.values):
                close(ours, theirs)
    assert batch.blocks == (12, 12)  # alike again, and without a mask
    assert batch.view(5, 12, torch.float32).mask is None


def test_rows_come_and_go():
    model = build_model()
    old, _ = hear(model, (6, 6, 12, 12, 6))
    new, _ = hear(model, (6,), seed=1)
    batch = FlowCache.stack([FlowCache.stack([old, new]), model.init_cache(1, 30)])
    for rows in ([2, 0], slice(0, 2), torch.tensor([1]), torch.tensor([True, False, True])):
        chosen = torch.arange(3)[rows]
        output = listen(model, batch.select(rows))
        close(output, listen(model, batch)[chosen])


def test_fixed_views_play_the_same_and_never_change_shape():
    model = build_model(patch_size=3)
    cache, _ = hear(model, (), window_frames=30)
    shapes = set()
    for frames in (12,) * 5:
        normal = cache.view(2, frames, torch.float32)
        fixed = cache.view(2, frames, torch.float32, fixed=True)
        shapes.add(fixed.keys[0].shape)
        expected = listen(model, cache, rows=2)
        cache._views[(2, frames, torch.float32, False)] = fixed
        close(listen(model, cache, rows=2), expected)
        assert (fixed.mask is None) == (normal.start == fixed.start)
        model.append_to_cache(torch.randn(1, 8, frames), cache)
    assert len(shapes) == 1


@pytest.mark.parametrize("histories", [[()], [(12, 6)], [(12, 6, 12, 24), (), (6, 6)]], ids=str)
def test_save_and_restore(histories, tmp_path):
    model = build_model(patch_size=3)
    cache = FlowCache.stack([hear(model, sizes, seed=row)[0] for row, sizes in enumerate(histories)])
    state = cache.state_dict()
    tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    save_file(tensors, tmp_path / "cache.safetensors")
    integers = json.loads(json.dumps({name: state[name] for name in state.keys() - tensors.keys()}))
    restored = FlowCache.from_state_dict(load_file(tmp_path / "cache.safetensors") | integers)
    assert restored.histories == cache.histories
    block = torch.randn(len(histories), 8, 24)
    for _ in range(2):
        assert torch.equal(listen(model, restored), listen(model, cache))
        model.append_to_cache(block, cache)
        model.append_to_cache(block, restored)


def test_wrong_states_are_named():
    state = hear(build_model(), (12, 6))[0].state_dict()
    with pytest.raises(ValueError, match="lacks blocks, window_frames"):
        FlowCache.from_state_dict({n: v for n, v in state.items() if n not in ("blocks", "window_frames")})
    with pytest.raises(ValueError, match=r"keys \(3, 1, 2, 17, 32\).*\(3, 1, 2, 18, 32\)"):
        FlowCache.from_state_dict(state | {"keys": state["keys"][:, :, :, 1:]})
    with pytest.raises(ValueError, match="beyond its window of 12"):
        FlowCache.from_state_dict(state | {"window_frames": 12})


def test_gradients_flow_through_a_cached_forward():
    model = build_model()
    cache, _ = hear(model, (12, 12))
    sample = torch.randn(1, 8, 12)
    output = model(sample, 0.2, cache=cache).sample
    output = model(output, 0.5, cache=cache).sample  # two steps of a roll-out on one graph
    output.square().mean().backward()
    assert model.layers[0].self_attn.k_proj.weight.grad.abs().sum() > 0
    with torch.no_grad():
        close(model(model(sample, 0.2, cache=cache).sample, 0.5, cache=cache).sample, output.detach())


def test_only_like_caches_stack():
    model = build_model()
    with pytest.raises(ValueError, match="window_frames 20 and 30 cannot share a batch"):
        FlowCache.stack([model.init_cache(1, 30), model.init_cache(1, 20)])
    with pytest.raises(ValueError, match="at least one"):
        FlowCache.stack([])


def test_flash_attention_refuses_rows_of_different_lengths_by_name():
    model = build_model()
    batch = FlowCache.stack([hear(model, (12,))[0], model.init_cache(1, 30)])
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match=r"flash_attention_2.*no mask"):
        listen(model, batch)


def test_to_keeps_positions_whole():
    model = build_model()
    _, cache = play(model, build_inputs(model), 6, 20)
    half = cache.to(torch.bfloat16)
    assert half.keys[0].dtype == torch.bfloat16 and half.position.dtype == torch.int64
    assert half.position.tolist() == cache.position.tolist()
    late = model.init_cache(1, start_frame=10 * 3600 * 75 + 1).to(torch.bfloat16)
    assert late.position.tolist() == [10 * 3600 * 75 + 1]


def test_window_beyond_training_is_refused():
    with pytest.raises(ValueError, match="window_frames is 751"):
        build_model().init_cache(1, window_frames=751)
