"""The discriminators: shapes, gradients to audio and weights, bad input."""

import pytest
import torch

from rtjazz_hf.codec.discriminators import CodecDiscriminator
from rtjazz_hf.codec.losses import adversarial_loss, discriminator_loss, feature_matching_loss

KINDS = [dict(n_ffts=(512, 256)), dict(n_ffts=(), periods=(2, 5)), dict(n_ffts=(256,), periods=(3,))]


@pytest.mark.parametrize("kind", KINDS, ids=["stft", "period", "both"])
class TestCodecDiscriminator:
    def test_each_part_judges_every_row(self, kind):
        judged = CodecDiscriminator(num_filters=4, **kind)(torch.randn(3, 2, 4000))
        assert len(judged) == len(kind.get("n_ffts", ())) + len(kind.get("periods", ()))
        for logits, features in judged:
            assert logits.shape[:2] == (3, 1) and len(features) > 2
            assert all(len(feature) == 3 for feature in features)

    def test_hears_both_channels_and_silence(self, kind):
        discriminator = CodecDiscriminator(num_filters=4, **kind)
        audio = torch.randn(1, 2, 4000)
        one_side = audio.clone()
        one_side[:, 1] = 0
        (a, _), (b, _) = discriminator(audio)[0], discriminator(one_side)[0]
        assert not torch.allclose(a, b)
        assert all(torch.isfinite(logits).all() for logits, _ in discriminator(torch.zeros(1, 2, 4000)))

    def test_learns_to_tell_noise_from_tones(self, kind):
        torch.manual_seed(0)
        discriminator = CodecDiscriminator(num_filters=4, **kind)
        time = torch.arange(4000) / 48000
        tones = 0.1 * torch.sin(2 * torch.pi * 440 * time).expand(2, 2, -1)
        noise = 0.1 * torch.randn(2, 2, 4000)
        optimizer = torch.optim.Adam(discriminator.parameters(), lr=1e-2)
        losses = []
        for _ in range(30):
            loss = discriminator_loss(discriminator(tones), discriminator(noise))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.7 * losses[0]


def test_losses_of_the_codec_reach_its_audio():
    discriminator = CodecDiscriminator(n_ffts=(256,), num_filters=4)
    real, fake = torch.randn(2, 2, 4000), torch.randn(2, 2, 4000, requires_grad=True)
    judged = discriminator(fake)
    loss = adversarial_loss(judged) + feature_matching_loss(discriminator(real), judged)
    loss.backward()
    assert fake.grad.abs().sum() > 0
    assert feature_matching_loss(discriminator(real), discriminator(real)) == 0


def test_needs_a_part():
    with pytest.raises(ValueError, match="at least one"):
        CodecDiscriminator(n_ffts=(), periods=())
