from __future__ import annotations

import math

import pytest
import torch

from rtjazz_hf.flow import (
    codebook_loss,
    corrupt_context,
    drift_context,
    drop_rows,
    energy_score,
    flow_matching_loss,
    replace_blocks,
    sample_timesteps,
    velocity_target,
)


class TestTimesteps:
    @pytest.mark.parametrize("distribution", ["uniform", "logit_normal"])
    def test_seeded_and_inside(self, distribution):
        first, second = (
            sample_timesteps((64, 30), distribution, generator=torch.Generator().manual_seed(3))
            for _ in range(2)
        )
        assert torch.equal(first, second) and first.shape == (64, 30)
        assert first.min() >= 0 and first.max() <= 1
        assert first.mean().item() == pytest.approx(0.5, abs=0.03)

    def test_shift_moves_towards_noise(self):
        times = sample_timesteps((2000,), "uniform", shift=3.0, generator=torch.Generator().manual_seed(3))
        assert times.mean() < 0.4

    def test_bad_names(self):
        with pytest.raises(ValueError, match="'beta'"):
            sample_timesteps((2,), "beta")
        with pytest.raises(ValueError, match="shift is 0"):
            sample_timesteps((2,), shift=0)


class TestVelocityLoss:
    def test_is_mean_squared_error(self):
        velocity, clean, noise = (torch.randn(2, 3, 5) for _ in range(3))
        target = velocity_target(clean, noise)
        expected = torch.nn.functional.mse_loss(velocity, target)
        torch.testing.assert_close(flow_matching_loss(velocity, target), expected)
        torch.testing.assert_close(flow_matching_loss(velocity, target, (2.0, 2.0, 2.0)), expected)

    def test_weights_and_mask(self):
        velocity, target = torch.zeros(1, 2, 4), torch.ones(1, 2, 4)
        target[:, 1] = 2
        target[..., 2:] = 100
        mask = torch.tensor([[True, True, False, False]])
        assert flow_matching_loss(velocity, target, (3.0, 1.0), mask).item() == pytest.approx(1.75)
        assert flow_matching_loss(velocity, target, reduction="none").shape == (1, 4)
        with pytest.raises(ValueError, match="1 channel_weights"):
            flow_matching_loss(velocity, target, (1.0,))
        with pytest.raises(ValueError, match="'sum'"):
            flow_matching_loss(velocity, target, reduction="sum")


class TestCodebookLoss:
    def test_uniform_logits_know_nothing(self):
        codes = torch.randint(16, (2, 4, 5))
        assert codebook_loss(torch.zeros(2, 4, 5, 16), codes).item() == pytest.approx(math.log(16))

    def test_right_codes_win(self):
        codes = torch.randint(16, (2, 4, 5))
        logits = 50.0 * torch.nn.functional.one_hot(codes, 16).float()
        assert codebook_loss(logits, codes).item() < 1e-6
        wrong = logits.clone()
        wrong[:, 3] = 0
        assert codebook_loss(wrong, codes, (1.0, 1.0, 1.0, 0.0)).item() < 1e-6
        with pytest.raises(ValueError, match="codes has shape"):
            codebook_loss(logits, codes[:, :3])


def test_drop_rows():
    style = torch.ones(1000, 4)
    dropped = drop_rows(style, 0.2, torch.Generator().manual_seed(0))
    assert (dropped.any(-1) == dropped.all(-1)).all()
    assert dropped.mean().item() == pytest.approx(0.8, abs=0.05)
    assert torch.equal(drop_rows(style, 0.0), style) and not drop_rows(style, 1.0).any()


def test_corrupt_context():
    clean = torch.randn(4, 3, 50)
    assert torch.equal(corrupt_context(clean, 0.0), clean)
    noisy = corrupt_context(clean, 0.1, torch.Generator().manual_seed(0))
    assert 0 < (noisy - clean).abs().mean() < 0.2


def test_drift_context_is_constant_in_time():
    context = torch.randn(200, 3, 50)
    assert torch.equal(drift_context(context, 0.0), context)
    seeds = (torch.Generator().manual_seed(0) for _ in range(2))
    drifted, again = (drift_context(context, 0.4, seed) for seed in seeds)
    assert torch.equal(drifted, again)
    line = torch.stack([torch.linalg.lstsq(torch.stack([x, torch.ones(50)], 1), y[:, None]).solution[:, 0]
                        for x, y in zip(context.flatten(0, 1), drifted.flatten(0, 1))])  # fmt: skip
    gain, offset = line.T
    expected = gain[:, None] * context.flatten(0, 1) + offset[:, None]
    assert torch.allclose(drifted.flatten(0, 1), expected, atol=1e-4)
    for values in (gain - 1, offset):  # a normal times a share that is uniform in [0, 0.4)
        assert values.std().item() == pytest.approx(0.4 / 3**0.5, rel=0.15)
    share = offset.view(200, 3).abs().mean(1)  # rows differ in how far they drift
    assert share.min() < 0.02 and share.max() > 0.3


def test_replace_blocks():
    zeros, ones = torch.zeros(300, 2, 24), torch.ones(300, 2, 24)
    mixed = replace_blocks(zeros, ones, 6, torch.Generator().manual_seed(0))
    blocks = mixed.unflatten(-1, (4, 6))
    assert torch.equal(blocks, blocks[:, :1, :, :1].expand_as(blocks))  # whole blocks, of every channel
    assert set(blocks.unique().tolist()) == {0.0, 1.0}
    rows = blocks[:, 0, :, 0].mean(1)
    assert rows.mean().item() == pytest.approx(0.5, abs=0.05)
    assert (rows == 0).float().mean() > 0.1 and (rows == 1).float().mean() > 0.1  # shares differ by row


class TestEnergyScore:
    def test_least_where_the_makings_spread_as_the_data(self):
        generator = torch.Generator().manual_seed(0)
        data = torch.randn(4000, 2, 3, generator=generator)
        makings = torch.randn(2, 4000, 2, 3, generator=generator)
        scores = [energy_score(*(spread * makings), data).item() for spread in (0.0, 0.5, 1.0, 1.5, 2.0)]
        assert min(scores) == scores[2]

    def test_a_channel_without_weight_and_a_rest_do_not_count(self):
        one, other, data = torch.randn(3, 2, 2, 7, generator=torch.Generator().manual_seed(0))
        less = energy_score(one[:, :1, :6], other[:, :1, :6], data[:, :1, :6])
        assert torch.allclose(energy_score(one, other, data, channel_weights=[1.0, 0.0]), less)

    def test_has_a_slope_where_all_are_the_same(self):
        same = torch.zeros(1, 2, 3, requires_grad=True)
        energy_score(same, same, same.detach()).backward()
        assert torch.isfinite(same.grad).all()
