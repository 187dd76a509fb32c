from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from rtjazz_hf.flow import FlowMatchScheduler, apply_guidance


def solve(scheduler, velocity, sample):
    for timestep in scheduler.timesteps:
        sample = scheduler.step(velocity(sample, timestep), timestep, sample).prev_sample
    return sample


class TestSteps:
    @pytest.mark.parametrize("method", ["euler", "heun"])
    @pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
    @pytest.mark.parametrize("steps", [1, 2, 7])
    def test_straight_path_is_exact(self, method, shift, steps):
        scheduler = FlowMatchScheduler(shift=shift, method=method)
        scheduler.set_timesteps(steps)
        noise, clean = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
        result = solve(scheduler, lambda x, t: clean - noise, noise)
        torch.testing.assert_close(result, clean)

    @pytest.mark.parametrize("method, order", [("euler", 1), ("heun", 2)])
    def test_order(self, method, order):
        errors = []
        for steps in (20, 40, 80):
            scheduler = FlowMatchScheduler(method=method)
            scheduler.set_timesteps(steps)
            result = solve(scheduler, lambda x, t: -x, torch.ones(1, 1, 1, dtype=torch.float64).float())
            errors.append(abs(result.item() - math.exp(-1)))
        assert scheduler.order == order
        for coarse, fine in pairwise(errors):
            assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)

    def test_euler_keeps_no_state(self):
        scheduler = FlowMatchScheduler()
        scheduler.set_timesteps(4)
        sample, velocity = torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
        for index in (3, 0, 2, 2):
            result = scheduler.step(velocity, scheduler.timesteps[index], sample, return_dict=False)[0]
            assert result.item() == pytest.approx(0.25)

    def test_heun_ends(self):
        scheduler = FlowMatchScheduler(method="heun")
        scheduler.set_timesteps(3)
        assert len(scheduler.timesteps) == 5
        solve(scheduler, lambda x, t: x, torch.ones(1, 1, 1))
        with pytest.raises(ValueError, match="set_timesteps"):
            scheduler.step(torch.ones(1, 1, 1), 0.0, torch.ones(1, 1, 1))

    def test_type_is_kept(self):
        scheduler = FlowMatchScheduler()
        sample = torch.zeros(1, 1, 1, dtype=torch.bfloat16)
        assert scheduler.step(sample, 0.0, sample).prev_sample.dtype == torch.bfloat16


class TestTimes:
    def test_from_noise_up_to_data(self):
        scheduler = FlowMatchScheduler()
        scheduler.set_timesteps(4)
        assert scheduler.timesteps.tolist() == [0.0, 0.25, 0.5, 0.75]

    def test_shift_spends_steps_near_noise(self):
        scheduler = FlowMatchScheduler(shift=3.0)
        scheduler.set_timesteps(10)
        assert scheduler.grid[0] == 0 and scheduler.grid[-1] == 1
        assert (scheduler.timesteps < 0.5).sum() > 7
        assert (scheduler.timesteps.diff() > 0).all()

    @pytest.mark.parametrize("steps", [0, -1, 2.5, True])
    def test_bad_steps_are_named(self, steps):
        with pytest.raises(ValueError, match=str(steps)):
            FlowMatchScheduler().set_timesteps(steps)

    @pytest.mark.parametrize(
        "change",
        [
            {"shift": 0.0},
            {"shift": float("nan")},
            {"method": "rk4"},
            {"init_noise_sigma": 0.0},
            {"init_noise_sigma": 3.0},
        ],
    )
    def test_bad_config_is_named(self, change):
        with pytest.raises(ValueError, match=str(*change.values())):
            FlowMatchScheduler(**change)


class TestNoise:
    def test_ends_of_the_path(self):
        scheduler = FlowMatchScheduler()
        clean, noise = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
        assert torch.equal(scheduler.scale_noise(clean, 0.0, noise), noise)
        assert torch.equal(scheduler.scale_noise(clean, torch.ones(2), noise), clean)

    def test_a_time_for_each_block(self):
        scheduler = FlowMatchScheduler()
        clean, noise = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
        timestep = torch.tensor([[0.1, 0.9], [0.5, 0.0]])
        mixed = scheduler.scale_noise(clean, timestep, noise)
        torch.testing.assert_close(mixed[0, :, 4:], 0.1 * noise[0, :, 4:] + 0.9 * clean[0, :, 4:])
        torch.testing.assert_close(mixed[1, :, 4:], noise[1, :, 4:])
        with pytest.raises(ValueError, match="3 blocks"):
            scheduler.scale_noise(clean, torch.zeros(2, 3), noise)


def test_save_and_load(tmp_path):
    FlowMatchScheduler(shift=2.0, method="heun").save_pretrained(tmp_path)
    loaded = FlowMatchScheduler.from_pretrained(tmp_path)
    assert (loaded.config.shift, loaded.config.method, loaded.order) == (2.0, "heun", 2)


def test_guidance():
    conditional, unconditional = torch.randn(2, 5, 30), torch.randn(2, 5, 30)
    torch.testing.assert_close(apply_guidance(conditional, unconditional, 1.0), conditional)
    for scale in (2.5, torch.tensor([2.5, 4.0])[:, None, None]):
        guided = apply_guidance(conditional, unconditional, scale)
        # the direction of the push, at the loudness of what was asked, a row at a time
        pushed = unconditional + scale * (conditional - unconditional)
        for row in range(2):
            torch.testing.assert_close(guided[row].std(), conditional[row].std())
            torch.testing.assert_close(guided[row] / guided[row].std(), pushed[row] / pushed[row].std())
