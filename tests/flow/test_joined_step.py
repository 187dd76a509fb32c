"""A finished block that joins the cache in the pass of the next block's first step: as two passes would have it."""

from __future__ import annotations

import pytest
import torch
from flow_models import build_model
from test_flow_compile import close

from rtjazz_hf.flow import FlowCache


@pytest.fixture(scope="module")
def model():
    return build_model(num_hidden_layers=2, patch_size=3)


def play(model, sizes, joined, window=24, rows=1, guided=False, cache=None):
    """Blocks of two steps; in `joined` ones the first step takes the block before along."""
    draw = torch.Generator().manual_seed(0)
    cache = model.init_cache(rows, window) if cache is None else cache
    played, clean, heard = [], None, None
    for frames in sizes:
        shown = 2 * rows if guided else rows
        latents, sheet, style = (
            torch.randn(shape, generator=draw) for shape in ((shown, 8, frames), (shown, frames, 5), (shown, 16))
        )
        with torch.no_grad():
            if clean is not None and not joined:
                model.append_to_cache(clean, cache, heard)
                clean = None
            ahead = 0 if clean is None else clean.shape[-1]
            conditions = model.prepare_conditions(torch.tensor([0.0, 0.5]), sheet, style, cache, ahead=ahead)
            for step in range(2):
                if step == 0 and clean is not None:
                    output = model.append_and_forward(clean, latents, cache, conditions, heard)
                else:
                    output = model(latents, conditions=conditions, step=step, cache=cache)
                latents = latents + 0.5 * output.sample
        clean, heard = latents[:rows], conditions
        played.append(latents)
    return torch.cat(played, dim=-1), cache


@pytest.mark.parametrize("window", [0, 6, 12, 24, 30])
def test_is_two_passes_in_one(model, window):
    (one, cache), (two, other) = (play(model, [12] * 5, joined, window) for joined in (True, False))
    close(one, two)
    assert cache.positions == other.positions and cache.blocks == other.blocks
    for states, others in ((cache.keys, other.keys), (cache.values, other.values)):
        for state, expected in zip(states, others):
            close(state, expected)


def test_blocks_of_other_sizes_and_guidance(model):
    sizes = [6, 12, 12, 6, 6, 24]
    close(play(model, sizes, True)[0], play(model, sizes, False)[0])
    close(play(model, [12] * 3, True, guided=True)[0], play(model, [12] * 3, False, guided=True)[0])


def test_rows_that_have_heard_different_pasts(model):
    played = []
    for joined in (True, False):
        caches = [play(model, sizes, False)[1] for sizes in ([12] * 3, [6] * 3, [12, 6, 6])]
        played.append(play(model, [12] * 4, joined, rows=3, cache=FlowCache.stack(caches))[0])
    close(*played)


def test_conditions_have_to_be_of_the_block_after(model):
    _, cache = play(model, [12] * 2, False)
    conditions = model.prepare_conditions(torch.tensor([0.0]), torch.zeros(1, 12, 5), torch.zeros(1, 16), cache)
    with pytest.raises(ValueError, match="prepared for"):
        model.append_and_forward(torch.zeros(1, 8, 12), torch.zeros(1, 8, 12), cache, conditions)
