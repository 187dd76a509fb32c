"""SEANet backbone: streaming equals whole, and transformers' EnCodec tensors carry over."""

from __future__ import annotations

import pytest
import torch

from rtjazz_hf.codec.seanet import SEANetDecoder, SEANetEncoder
from rtjazz_hf.codec.streaming import remove_weight_norm

TINY = {
    "audio_channels": 2,
    "latent_dim": 6,
    "num_filters": 4,
    "strides": (4, 3, 2),
    "num_residual_layers": 2,
}
HOP = 24
VARIANTS = [
    {},
    {"use_lstm": True},
    {"norm": "layer_norm"},
    {"norm": "none", "use_conv_shortcut": False},
    {"audio_dilation": 2},
]


def stream(module, x: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    outputs, state = [], None
    for piece in x.split(sizes, dim=-1):
        y, state = module(piece, state)
        outputs.append(y)
    return torch.cat(outputs, dim=-1)


@pytest.mark.parametrize("variant", VARIANTS)
class TestStreaming:
    @torch.no_grad()
    def test_encoder_in_pieces_of_any_length_equals_whole(self, variant):
        torch.manual_seed(0)
        encoder = SEANetEncoder(**TINY, **variant)
        audio = torch.randn(2, 2, 10 * HOP)
        whole, _ = encoder(audio)
        assert whole.shape == (2, 6, 10)
        for sizes in ([HOP] * 10, [1, 30, 0, 5, 100, 104], [7] * 34 + [2]):
            assert torch.allclose(stream(encoder, audio, sizes), whole, atol=1e-5)

    @torch.no_grad()
    def test_decoder_in_pieces_equals_whole(self, variant):
        torch.manual_seed(0)
        decoder = SEANetDecoder(**TINY, **variant)
        latents = torch.randn(2, 6, 10)
        whole, _ = decoder(latents)
        assert whole.shape == (2, 2, 10 * HOP)
        for sizes in ([1] * 10, [3, 0, 1, 6], [9, 1]):
            assert torch.allclose(stream(decoder, latents, sizes), whole, atol=1e-5)

    @torch.no_grad()
    def test_is_causal(self, variant):
        encoder, decoder = SEANetEncoder(**TINY, **variant), SEANetDecoder(**TINY, **variant)
        audio = torch.randn(1, 2, 8 * HOP)
        changed = audio.clone()
        changed[..., 5 * HOP :] = 0.0
        first, second = encoder(audio)[0], encoder(changed)[0]
        assert torch.allclose(first[..., :5], second[..., :5], atol=1e-6)
        assert torch.allclose(
            decoder(first)[0][..., : 5 * HOP], decoder(second)[0][..., : 5 * HOP], atol=1e-6
        )

    def test_gradients_reach_every_parameter(self, variant):
        encoder, decoder = SEANetEncoder(**TINY, **variant), SEANetDecoder(**TINY, **variant)
        decoder(encoder(torch.randn(1, 2, 4 * HOP))[0])[0].square().mean().backward()
        for module in (encoder, decoder):
            assert all(p.grad is not None for p in module.parameters())


class TestEncodecParity:
    """With zero padding in both, the same tensors give the same output: a conversion is exact."""

    @pytest.fixture(scope="class")
    def encodec(self):
        from transformers import EncodecConfig, EncodecModel

        torch.manual_seed(0)
        config = EncodecConfig(
            audio_channels=2,
            hidden_size=6,
            codebook_dim=6,
            num_filters=4,
            upsampling_ratios=[4, 3, 2],
            num_residual_layers=2,
            num_lstm_layers=2,
            pad_mode="constant",
            use_causal_conv=True,
            target_bandwidths=[24.0],
        )
        return EncodecModel(config).eval()

    @torch.no_grad()
    def test_encoder_and_decoder_load_by_name(self, encodec):
        encoder, decoder = SEANetEncoder(**TINY, use_lstm=True), SEANetDecoder(**TINY, use_lstm=True)
        for ours, theirs in ((encoder, encodec.encoder), (decoder, encodec.decoder)):
            tensors = {
                name: value for name, value in theirs.state_dict().items() if name in ours.state_dict()
            }
            ours.load_state_dict(tensors)  # strict: every tensor of ours is found
        audio = torch.randn(1, 2, 6 * HOP)
        latents = encodec.encoder(audio)
        assert torch.allclose(encoder(audio)[0], latents, atol=1e-5)
        assert torch.allclose(decoder(latents)[0], encodec.decoder(latents), atol=1e-5)

    def test_lstm_leaves_names_in_place(self):
        with_lstm = set(SEANetEncoder(**TINY, use_lstm=True).state_dict())
        without = set(SEANetEncoder(**TINY).state_dict())
        assert without == {name for name in with_lstm if ".lstm." not in name}


@torch.no_grad()
def test_default_size_is_one_frame_per_640_samples():
    encoder, decoder = SEANetEncoder(num_filters=2), SEANetDecoder(num_filters=2)
    latents, _ = encoder(torch.randn(1, 2, 1300))
    assert encoder.hop_length == 640 and latents.shape == (1, 64, 2)
    assert decoder(latents)[0].shape == (1, 2, 1280)


@torch.no_grad()
def test_audio_dilation_runs_the_same_network_at_twice_the_rate():
    """Samples held twice as long give the same latents, where the first stride takes twice as many of them."""
    torch.manual_seed(0)
    narrow = {**TINY, "norm": "none"}
    wide = {**narrow, "strides": (4, 3, 4), "audio_dilation": 2}
    encoder, encoder_wide = SEANetEncoder(**narrow), SEANetEncoder(**wide)
    decoder, decoder_wide = SEANetDecoder(**narrow), SEANetDecoder(**wide)
    for one, two, share in ((encoder, encoder_wide, 0.5), (decoder, decoder_wide, 1.0)):
        tensors, shapes = one.state_dict(), {name: value.shape for name, value in two.state_dict().items()}
        changed = [name for name in tensors if tensors[name].shape != shapes[name]]
        assert len(changed) == 1  # the strided kernel alone
        tensors[changed[0]] = tensors[changed[0]].repeat_interleave(2, dim=-1) * share
        two.load_state_dict(tensors)
    audio = torch.randn(1, 2, 6 * HOP)
    latents, _ = encoder(audio)
    assert torch.allclose(encoder_wide(audio.repeat_interleave(2, dim=-1))[0], latents, atol=1e-5)
    held = decoder(latents)[0].repeat_interleave(2, dim=-1)
    assert torch.allclose(decoder_wide(latents)[0], held, atol=1e-5)


@torch.no_grad()
def test_weight_norm_can_be_folded():
    encoder = SEANetEncoder(**TINY)
    audio = torch.randn(1, 2, 2 * HOP)
    before, _ = encoder(audio)
    after, _ = remove_weight_norm(encoder)(audio)
    assert torch.allclose(before, after, atol=1e-5)
    assert not any("parametrizations" in name for name in encoder.state_dict())


def test_unknown_norm_is_named():
    with pytest.raises(ValueError, match=r"norm='batch'.*weight_norm"):
        SEANetEncoder(**TINY, norm="batch")
