from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

import rtjazz_hf  # noqa: F401 - registers the Auto classes
from rtjazz_hf.style import (
    RealTimeJazzStyleEncoder,
    RealTimeJazzStyleEncoderConfig,
    contrastive_loss,
    mix_styles,
)


def tiny_config(**values) -> RealTimeJazzStyleEncoderConfig:
    tiny = {
        "vocab_size": 300, "text_hidden_size": 32, "text_num_layers": 2, "text_num_heads": 2,
        "text_intermediate_size": 64, "num_mel_bins": 24, "audio_hidden_size": 32, "audio_num_layers": 2,
        "audio_num_heads": 2, "audio_intermediate_size": 64, "projection_dim": 16, "max_audio_seconds": 2.0,
    }  # fmt: skip
    return RealTimeJazzStyleEncoderConfig(**{**tiny, **values})


@pytest.fixture
def model() -> RealTimeJazzStyleEncoder:
    torch.manual_seed(0)
    return RealTimeJazzStyleEncoder(tiny_config()).eval()


def sound(batch: int = 2, samples: int = 24_000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(batch, 2, samples, generator=generator)


def tokens(batch: int = 2, length: int = 7) -> torch.Tensor:
    return torch.randint(4, 300, (batch, length), generator=torch.Generator().manual_seed(1))


class TestSizes:
    @pytest.mark.parametrize(("size", "low", "high"), [("mini", 3.5e6, 4.5e6), ("base", 130e6, 140e6)])
    def test_parameters(self, size, low, high):
        config = getattr(RealTimeJazzStyleEncoderConfig, size)()
        with torch.device("meta"):
            assert low < RealTimeJazzStyleEncoder(config).num_parameters() < high
        assert config.projection_dim == 512

    def test_base_text_tower(self):
        config = RealTimeJazzStyleEncoderConfig.base()
        shape = (config.text_num_layers, config.text_hidden_size, config.text_num_heads, config.vocab_size)
        assert shape == (12, 768, 12, 32_000)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"text_hidden_size": 33}, "multiple of text_num_heads"),
            ({"max_frequency": 30_000.0}, "sampling_rate / 2"),
            ({"hop_length": 0}, "hop_length"),
            ({"vocab_size": "many"}, "vocab_size"),
        ],
    )
    def test_bad_configs_are_named(self, values, message):
        with pytest.raises(Exception, match=message):
            tiny_config(**values)


class TestSaving:
    def test_bit_equal_and_nothing_missing(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded, info = RealTimeJazzStyleEncoder.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info.values()), info
        with torch.no_grad():
            assert torch.equal(model.encode_text(tokens()), loaded.encode_text(tokens()))
            assert torch.equal(model.encode_audio(sound()), loaded.encode_audio(sound()))

    def test_auto_classes(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)) is RealTimeJazzStyleEncoderConfig
        loaded = AutoModel.from_pretrained(tmp_path)
        assert type(loaded) is RealTimeJazzStyleEncoder
        assert torch.equal(loaded.audio_front_end.window, model.audio_front_end.window)

    def test_sixteen_bit_weights_are_close(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        half = RealTimeJazzStyleEncoder.from_pretrained(tmp_path, dtype=torch.bfloat16)
        with torch.no_grad():
            agree = (half.encode_audio(sound()) * model.encode_audio(sound())).sum(-1)
            assert half.encode_text(tokens()).dtype == torch.float32
        assert (agree > 0.99).all()


class TestEmbeddings:
    def test_unit_norms(self, model):
        for embeds in (model.encode_text(tokens()), model.encode_audio(sound())):
            assert embeds.shape == (2, 16)
            assert torch.allclose(embeds.norm(dim=-1), torch.ones(2), atol=1e-5)

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_of_texts_changes_nothing(self, model, side):
        ids, pad = tokens(1, 5), torch.zeros(1, 4, dtype=torch.long)
        padded = torch.cat([ids, pad] if side == "right" else [pad, ids], dim=1)
        mask = (padded != 0).long()
        assert torch.allclose(model.encode_text(ids), model.encode_text(padded, mask), atol=1e-5)

    @pytest.mark.parametrize("samples", [24_000, 20_123, 150_000])
    def test_padding_of_clips_changes_nothing(self, model, samples):
        clip = sound(1, samples)
        padded = torch.nn.functional.pad(clip, (0, 40_000))
        alone = model.encode_audio(clip)
        assert torch.allclose(alone, model.encode_audio(padded, torch.tensor([samples])), atol=1e-4)
        assert not torch.allclose(alone, model.encode_audio(padded), atol=1e-4)

    def test_a_batch_equals_single_clips(self, model):
        whole = model.encode_audio(sound(3))
        singles = torch.cat([model.encode_audio(clip[None]) for clip in sound(3)])
        assert torch.allclose(whole, singles, atol=1e-5)

    def test_level_is_not_style(self, model):
        assert torch.allclose(model.encode_audio(sound()), model.encode_audio(sound() * 0.05), atol=1e-3)

    def test_silence_and_long_clips_are_finite(self, model):
        assert torch.isfinite(model.encode_audio(torch.zeros(1, 2, 9600))).all()
        long = model.encode_audio(sound(1, 48_000 * 5 + 17))
        assert torch.allclose(long.norm(dim=-1), torch.ones(1), atol=1e-5)

    def test_a_spectrogram_stands_for_its_audio(self, model):
        log_mel = model.audio_front_end(sound())
        assert log_mel.shape == (2, 25, 24)
        assert torch.equal(model.encode_audio(sound()), model.encode_audio(log_mel=log_mel))

    def test_the_front_end_hears_pitch(self, model):
        t = torch.arange(48_000) / 48_000
        peaks = [
            int(model.audio_front_end(torch.sin(2 * torch.pi * hz * t).expand(1, 2, -1))[0, 25].argmax())
            for hz in (60, 440, 1000, 4000, 12_000)
        ]
        assert peaks == sorted(set(peaks))
        assert (model.audio_front_end.filterbank.sum(0) > 0.99).all()

    def test_eager_equals_sdpa(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        eager = RealTimeJazzStyleEncoder.from_pretrained(tmp_path, attn_implementation="eager")
        mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
        assert torch.allclose(model.encode_text(tokens(), mask), eager.encode_text(tokens(), mask), atol=1e-5)

    def test_bad_input_is_named(self, model):
        with pytest.raises(ValueError, match="at most 64 tokens"):
            model.encode_text(tokens(1, 65))
        with pytest.raises(ValueError, match=r"\(batch, channels, samples\)"):
            model.encode_audio(torch.zeros(2, 100))
        with pytest.raises(ValueError, match="nothing to encode"):
            model()
        with pytest.raises(ValueError, match="in pairs"):
            model(input_ids=tokens(3), audio=sound(2), return_loss=True)


class TestMixing:
    def test_between_its_parts(self, model):
        styles = model.encode_text(tokens(2))
        mixed = mix_styles(styles, [0.7, 0.3])
        assert mixed.norm().item() == pytest.approx(1.0, abs=1e-5)
        assert mixed @ styles[0] > mixed @ styles[1] > styles[0] @ styles[1] - 1e-6
        assert torch.allclose(mix_styles(styles, [1.0, 0.0]), styles[0], atol=1e-6)
        assert torch.allclose(mix_styles(styles, [7, 3]), mixed, atol=1e-6)

    @pytest.mark.parametrize("weights", [[1.0], [1.0, -0.1], [0.0, 0.0], [float("nan"), 1.0]])
    def test_bad_weights(self, weights):
        with pytest.raises(ValueError, match="weights"):
            mix_styles(torch.eye(2), weights)


class TestLoss:
    def test_value(self):
        assert contrastive_loss(torch.zeros(8, 8)).item() == pytest.approx(np.log(8))
        assert contrastive_loss(100 * torch.eye(8)).item() == pytest.approx(0.0, abs=1e-6)

    def test_same_captions_are_no_negatives(self):
        logits = torch.tensor([[5.0, 5.0, 0.0], [5.0, 5.0, 0.0], [0.0, 0.0, 5.0]])
        same = torch.tensor([[True, True, False], [True, True, False], [False, False, True]])
        assert contrastive_loss(logits, same) < 0.02 < contrastive_loss(logits)
        everything = torch.ones(3, 3, dtype=torch.bool)
        assert contrastive_loss(logits, everything).item() == pytest.approx(0.0, abs=1e-6)

    def test_overfits_a_few_pairs(self, model):
        model.train()
        t = torch.arange(24_000) / 48_000
        pitches = torch.tensor([80.0, 300.0, 1000.0, 5000.0])
        clips = torch.sin(2 * torch.pi * pitches[:, None] * t)[:, None].expand(-1, 2, -1)
        log_mel = model.audio_front_end(clips)
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        losses = []
        for _ in range(60):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=tokens(4), log_mel=log_mel, return_loss=True).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] > 1.0
        assert losses[-1] < 0.2

    def test_gradient_checkpointing_gives_the_same_gradients(self, model):
        def gradient():
            model.zero_grad()
            model(input_ids=tokens(), audio=sound(), return_loss=True).loss.backward()
            return model.text_tower.layers[0].fc1.weight.grad.clone()

        model.train()
        plain = gradient()
        model.gradient_checkpointing_enable()
        assert torch.allclose(plain, gradient(), atol=1e-6)
