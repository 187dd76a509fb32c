"""conversion/add_deviations.py: the old channels and the old sound stay; codes old and new."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path

import pytest
import torch
from synthetic_takes import write_takes
from tiny_models import plucked_clip

from rtjazz_hf.codec import RealTimeJazzCodec, RealTimeJazzCodecConfig
from rtjazz_hf.hub import load_codec

SIZES = dict(latent_dim=16, encoder_hidden_size=32, encoder_layers=1, decoder_hidden_size=32, decoder_layers=1,
             codebook_size=16, num_codebooks=2, max_codebooks=3, codebook_dim=(16, 16, 4), prediction_levels=2,
             noise_frames=50)  # fmt: skip


@pytest.fixture(scope="module")
def add_deviations():
    folder = str(Path(__file__).parents[2] / "conversion")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("add_deviations")
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def old(tmp_path_factory):
    torch.manual_seed(0)
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**SIZES)).eval()
    clip = plucked_clip(3.0)
    codec.fit_start([clip])
    codec.fit_codes([clip], iterations=2)
    folder = tmp_path_factory.mktemp("codec") / "old"
    codec.save_pretrained(folder)
    return folder


def test_without_takes_latents_sound_and_codes_stay(add_deviations, old, tmp_path, capsys):
    add_deviations.main([str(old), "-o", str(tmp_path / "new"), "--registers", "24", "72"])
    assert "equal to the bit" in capsys.readouterr().out
    before, after = load_codec(old), load_codec(tmp_path / "new")
    assert after.config.num_deviations == 24 and after.config.energy_dim == 16
    clip = plucked_clip(2.0)
    assert torch.equal(before.encode(clip).latents, after.encode(clip).latents[:, :16])
    codes = before.encode(clip).codes
    decoded = after.codes_to_latents(codes)
    torch.testing.assert_close(decoded[:, :16], before.codes_to_latents(codes))
    assert not decoded[:, 16:].any()
    torch.testing.assert_close(
        after.decode(codes=codes).audio, before.decode(codes=codes).audio, atol=1e-5, rtol=0
    )


def test_with_takes_scale_and_the_predicting_levels_are_fitted(add_deviations, old, tmp_path):
    takes = write_takes(tmp_path / "corpus", count=3, held_out=1)
    add_deviations.main(
        [str(old), "-o", str(tmp_path / "new"), "--takes", str(takes), "--clips", "2", "--seconds", "1",
         "--registers", "48"]
    )  # fmt: skip
    before, after = load_codec(old), load_codec(tmp_path / "new")
    assert after.config.latents_std[:16] == before.config.latents_std
    assert after.config.latents_mean[16:] == (0.0,) * 12 and min(after.config.latents_std[16:]) > 0
    assert after.codes_to_latents(after.encode(plucked_clip(1.0)).codes)[:, 16:].any()
    levels = list(zip(before.quantizer.layers, after.quantizer.layers))
    assert [torch.equal(ours.embed, theirs.embed[:, :16]) for ours, theirs in levels] == [False, False, True]
    assert torch.equal(before.quantizer.channel_scale, after.quantizer.channel_scale[:16])


def test_with_a_larger_weight_codes_say_more_of_the_new_channels(add_deviations, old):
    generator = torch.Generator().manual_seed(0)
    latents = [torch.randn(200, 28, generator=generator) for _ in range(4)]

    def error(weight: float) -> float:
        codec = add_deviations.add_deviations(load_codec(old), (48,))
        add_deviations.fit_codes(codec, latents, weight)
        given = torch.stack(latents).transpose(1, 2)
        return (codec.codes_to_latents(codec.latents_to_codes(given)) - given)[:, 16:].square().mean().item()

    assert error(100.0) < error(1.0) < 1.05


def test_clips_are_tuned_anew(add_deviations):
    time = torch.arange(48_000) / 48_000
    clip = torch.sin(2 * torch.pi * 440 * time).expand(1, 2, -1)
    for cents in (-50, 30):
        tuned = add_deviations.detune(clip, cents)
        assert tuned.shape[-1] % 640 == 0
        power = torch.fft.rfft(tuned[0, 0] * torch.hann_window(tuned.shape[-1]), 1 << 20).abs()
        heard = power.argmax() * 48_000 / (1 << 20)
        assert abs(1200 * math.log2(heard / 440) - cents) < 0.5


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--registers", "20"], "lowest_note=24"),
        (["--registers", "24", "24"], "rising"),
        (["--levels", "9"], "levels 9"),
        (["--takes", "no/corpus"], "no/corpus"),
        (["--real", "no/music"], "give --takes too"),
        (["--detuned", "2"], "a share of 0 to 1"),
        (["--weight", "0"], "a number above 0"),
    ],
)
def test_wrong_input_is_named_and_nothing_is_written(add_deviations, old, tmp_path, capsys, wrong, said):
    with pytest.raises(SystemExit):
        add_deviations.main([str(old), "-o", str(tmp_path / "new"), *wrong])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_codec_that_moves_already_is_refused(add_deviations, old, tmp_path, capsys):
    add_deviations.main([str(old), "-o", str(tmp_path / "new"), "--registers", "24"])
    with pytest.raises(SystemExit):
        add_deviations.main([str(tmp_path / "new"), "-o", str(tmp_path / "newer")])
    assert "already" in capsys.readouterr().err


def test_the_bundled_codec_bends():
    """A quarter tone, which stands between the notes of the bank, is in tune: by the channels of deviations alone."""
    codec = load_codec("rtjazz-mini")
    time = torch.arange(48_000) / 48_000
    hertz = 440 * 2 ** (50 / 1200)
    audio = (0.2 * torch.sin(2 * torch.pi * hertz * time)).expand(1, 2, -1)
    moving = codec.encode(audio, return_codes=False).latents
    still = moving.clone()
    still[:, codec.config.energy_dim :] = 0.0

    def cents(latents: torch.Tensor) -> float:
        copy = codec.decode(latents=latents).audio[0, 0, 16_000:48_000]
        power = torch.fft.rfft(copy * torch.hann_window(32_000), 1 << 19).abs()
        return 1200 * math.log2(power[: 1 << 14].argmax().item() * 48_000 / (1 << 19) / hertz)

    assert abs(cents(moving)) < 3 and abs(cents(still)) > 20
