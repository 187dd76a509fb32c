"""The gradient balancer: each loss pulls as its weight says, and the state resumes."""

import pytest
import torch

from rtjazz_hf.codec import mel_loss, pitch_contrast_loss, spectral_loss
from rtjazz_hf.codec.losses import GradientBalancer, low_loss, partials_loss, structure_loss


def pulls(audio: torch.Tensor) -> dict[str, torch.Tensor]:
    """Two losses, one a thousand times as steep, that pull in directions at right angles."""
    return {"steep": 1000 * audio[:, 0].sum(), "flat": audio[:, 1].sum()}


class TestGradientBalancer:
    def test_weights_are_shares_whatever_the_slopes(self):
        balancer = GradientBalancer({"steep": 1.0, "flat": 3.0}, total_norm=2.0)
        audio = torch.randn(4, 2, 50, requires_grad=True)
        loss, norms = balancer(pulls(audio), audio)
        loss.backward()
        assert norms["steep"] == pytest.approx(1000 * norms["flat"], rel=1e-4)
        steep, flat = audio.grad[:, 0].norm(dim=-1), audio.grad[:, 1].norm(dim=-1)
        torch.testing.assert_close(flat, 3 * steep)
        torch.testing.assert_close(steep + flat, torch.full((4,), 2.0))

    def test_a_loss_that_is_left_out_leaves_its_share_to_the_others(self):
        balancer = GradientBalancer({"steep": 1.0, "flat": 1.0}, total_norm=1.0)
        audio = torch.randn(2, 2, 50, requires_grad=True)
        loss, _ = balancer({"flat": pulls(audio)["flat"]}, audio)
        loss.backward()
        torch.testing.assert_close(audio.grad.flatten(1).norm(dim=1), torch.ones(2))

    def test_averages_over_steps_and_resumes(self):
        audio = torch.randn(2, 2, 50, requires_grad=True)

        def step(balancer, scale):
            losses = {"steep": scale * audio[:, 0].sum()}
            return torch.autograd.grad(balancer(losses, audio)[0], audio)[0]

        whole, part = (GradientBalancer({"steep": 1.0}, decay=0.5) for _ in range(2))
        step(whole, 1.0), step(part, 1.0)
        resumed = GradientBalancer({"steep": 1.0}, decay=0.5)
        resumed.load_state_dict(part.state_dict())
        assert torch.equal(step(whole, 4.0), step(resumed, 4.0))
        fresh = step(GradientBalancer({"steep": 1.0}), 4.0)
        assert step(whole, 4.0).norm() > fresh.norm()  # a sudden slope is not divided away at once

    def test_not_finite_is_seen_by_who_steps(self):
        audio = torch.randn(1, 2, 50, requires_grad=True)
        loss, _ = GradientBalancer({"bad": 1.0})({"bad": audio.sum() * float("nan")}, audio)
        loss.backward()
        assert not torch.isfinite(audio.grad).any()

    def test_bad_input(self):
        with pytest.raises(ValueError, match="positive"):
            GradientBalancer({})
        audio = torch.randn(1, 2, 50, requires_grad=True)
        with pytest.raises(ValueError, match="steep"):
            GradientBalancer({"flat": 1.0})(pulls(audio), audio)


@pytest.mark.parametrize(
    "loss", [spectral_loss, mel_loss, pitch_contrast_loss, low_loss, partials_loss, structure_loss]
)
def test_equal_is_zero_and_other_is_not(loss):
    torch.manual_seed(0)
    audio = 0.1 * torch.randn(2, 2, 12_000)
    assert loss(audio, audio).abs() < 1e-5
    assert loss(audio, audio.flip(-1)) > 0.05


def test_a_bass_line_that_comes_late_and_noise_between_partials_are_seen():
    time = torch.arange(24_000) / 48_000
    begun = ((time - 0.2) * 200).clamp(0, 1)
    bass = torch.sin(6.2832 * 55 * time) * begun
    partials = sum(torch.sin(6.2832 * 220 * number * time) for number in range(1, 5))
    clip = 0.1 * torch.stack([bass, bass])[None] + 0.05 * partials
    late = 0.1 * torch.stack([bass, bass])[None].roll(2400, -1) + 0.05 * partials
    hiss = clip + 1e-3 * torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    assert low_loss(late, clip) > 3 * low_loss(hiss, clip)
    assert partials_loss(hiss, clip) > 1.5 * partials_loss(late, clip)


def test_a_louder_copy_keeps_its_structure_and_one_without_its_swells_does_not():
    time = torch.arange(48_000) / 48_000
    noise = torch.randn(2, 48_000, generator=torch.Generator().manual_seed(0))
    swelling = (0.1 * noise * (0.2 + torch.sin(6.2832 * 6 * time).square()))[None].requires_grad_()
    level = swelling.detach().square().mean().sqrt()
    even = (noise * level / noise.square().mean().sqrt())[None]
    assert structure_loss(1.5 * swelling, swelling) < 0.1 * structure_loss(even, swelling)
    silent = torch.zeros_like(even)
    structure_loss(swelling, silent).backward()  # even patches: their spread has no slope of its own
    assert swelling.grad.isfinite().all()
