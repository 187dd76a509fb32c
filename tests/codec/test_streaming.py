"""Streaming layers: a whole signal and any split of it give the same output."""

from __future__ import annotations

import copy

import pytest
import torch

from rtjazz_hf.codec.streaming import (
    CausalConv1d,
    CausalConvTranspose1d,
    StreamingState,
    remove_weight_norm,
)


def random_split(x: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Pieces of 0 to 7 samples."""
    generator = torch.Generator().manual_seed(seed)
    sizes = []
    while sum(sizes) < x.shape[-1]:
        size = int(torch.randint(0, 8, (), generator=generator))
        sizes.append(min(size, x.shape[-1] - sum(sizes)))
    return list(x.split(sizes, dim=-1))


def stream(layer, pieces: list[torch.Tensor]) -> torch.Tensor:
    outputs, state = [], None
    for piece in pieces:
        y, state = layer(piece, state)
        outputs.append(y)
    return torch.cat(outputs, dim=-1)


CONV_SHAPES = [
    # kernel, stride, dilation, groups
    (1, 1, 1, 1),
    (7, 1, 1, 1),
    (3, 1, 4, 1),
    (7, 1, 1, 4),
    (4, 4, 1, 1),
    (10, 5, 1, 1),
    (5, 3, 2, 2),
]


class TestCausalConv1d:
    @pytest.mark.parametrize("kernel, stride, dilation, groups", CONV_SHAPES)
    @pytest.mark.parametrize("weight_norm", [False, True])
    def test_any_split_equals_whole(self, kernel, stride, dilation, groups, weight_norm):
        torch.manual_seed(0)
        layer = CausalConv1d(4, 8, kernel, stride, dilation, groups, weight_norm=weight_norm)
        x = torch.randn(2, 4, 61)
        whole, _ = layer(x)
        assert whole.shape == (2, 8, 61 // stride)
        for seed in range(4):
            assert torch.allclose(stream(layer, random_split(x, seed)), whole, atol=1e-6)

    def test_does_not_see_the_future(self):
        layer = CausalConv1d(1, 1, 8, stride=4)
        x = torch.randn(1, 1, 32)
        changed = x.clone()
        changed[..., 16:] += 1.0
        assert torch.equal(layer(x)[0][..., :4], layer(changed)[0][..., :4])

    def test_starts_in_silence(self):
        layer = CausalConv1d(1, 1, 5, stride=2)
        x = torch.randn(1, 1, 20)
        expected = layer.conv(torch.nn.functional.pad(x, (3, 0)))
        assert torch.allclose(layer(x)[0], expected, atol=1e-6)

    def test_kernel_below_stride_is_refused(self):
        with pytest.raises(ValueError, match=r"kernel_size=3.*stride=4"):
            CausalConv1d(1, 1, 3, stride=4)


class TestCausalConvTranspose1d:
    @pytest.mark.parametrize(
        "kernel, stride, groups", [(4, 4, 1), (8, 4, 1), (11, 4, 1), (9, 2, 2), (3, 1, 4)]
    )
    @pytest.mark.parametrize("weight_norm", [False, True])
    def test_any_split_equals_whole(self, kernel, stride, groups, weight_norm):
        torch.manual_seed(0)
        layer = CausalConvTranspose1d(4, 8, kernel, stride, groups, weight_norm=weight_norm)
        x = torch.randn(2, 4, 23)
        whole, _ = layer(x)
        assert whole.shape == (2, 8, 23 * stride)
        assert torch.allclose(whole, layer.conv(x)[..., : 23 * stride], atol=1e-6)
        for seed in range(4):
            assert torch.allclose(stream(layer, random_split(x, seed)), whole, atol=1e-6)

    def test_kernel_below_stride_is_refused(self):
        with pytest.raises(ValueError, match=r"kernel_size=3.*stride=4"):
            CausalConvTranspose1d(1, 1, 3, stride=4)


class TestStreamingState:
    def state(self, batch: int = 2) -> StreamingState:
        inner = StreamingState({"0": torch.randn(batch, 3, 4)})
        return StreamingState({"conv": inner, "position": torch.arange(batch)})

    def test_old_state_can_be_resumed(self):
        layer = CausalConv1d(1, 1, 3)
        x = torch.randn(1, 1, 12)
        _, state = layer(x[..., :6])
        kept = state.clone()
        first, _ = layer(x[..., 6:], state)
        assert torch.equal(state, kept)
        second, _ = layer(x[..., 6:], kept)
        assert torch.equal(first, second)

    def test_dtype_change_leaves_counters(self):
        moved = self.state().to("cpu", torch.bfloat16)
        assert [t.dtype for t in moved.tensors()] == [torch.bfloat16, torch.int64]

    def test_clone_shares_nothing(self):
        state = self.state()
        copied = state.clone()
        for a, b in zip(state.tensors(), copied.tensors()):
            assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()

    def test_select_and_cat_are_inverse(self):
        state = self.state(3)
        again = StreamingState.cat([state.select(i) for i in range(3)])
        assert all(torch.equal(a, b) for a, b in zip(state.tensors(), again.tensors()))
        with pytest.raises(ValueError, match="at least one"):
            StreamingState.cat([])

    def test_foreign_state_is_named(self):
        with pytest.raises(ValueError, match="no layer 'missing'"):
            self.state()["missing"]


def test_remove_weight_norm_keeps_outputs():
    torch.manual_seed(0)
    layer = CausalConv1d(2, 3, 5, weight_norm=True)
    folded = remove_weight_norm(copy.deepcopy(layer))
    x = torch.randn(1, 2, 16)
    assert set(folded.state_dict()) == {"conv.weight", "conv.bias"}
    assert torch.allclose(layer(x)[0], folded(x)[0], atol=1e-6)
