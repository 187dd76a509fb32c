"""Tones that move: what is measured of a tone, which channels it moves, and what the bank makes of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rtjazz_hf.codec import RealTimeJazzCodec, RealTimeJazzCodecConfig, read_codes, write_codes
from rtjazz_hf.codec.deviations import UNIT, unpool_deviations
from rtjazz_hf.codec.lapped import LappedDecoder
from rtjazz_hf.codec.tone_bank import moving_tones, still_tones
from rtjazz_hf.codec.transforms import constant

TINY = dict(encoder_hidden_size=16, encoder_layers=1, decoder_hidden_size=16, decoder_layers=1, codebook_size=16,
            noise_frames=50)  # fmt: skip
REGISTERS = (24, 60, 78)


def build(**kwargs) -> RealTimeJazzCodec:
    torch.manual_seed(0)
    config = RealTimeJazzCodecConfig(**{**TINY, "latent_dim": 52, "deviation_registers": REGISTERS, **kwargs})
    return RealTimeJazzCodec(config).eval()


@pytest.fixture(scope="module")
def codec() -> RealTimeJazzCodec:
    codec = build()
    codec.fit_start([tone(60, 0) + 0.01 * torch.randn(1, 2, 96_000)])
    return codec


def tone(note: float, cents: float, seconds: float = 2.0, amplitude: float = 0.2) -> torch.Tensor:
    time = torch.arange(int(seconds * 48000), dtype=torch.float64) / 48000
    hertz = 440 * 2 ** ((note - 69 + cents / 100) / 12)
    return (amplitude * torch.sin(2 * torch.pi * hertz * time)).float().expand(1, 2, -1).clone()


def measured(codec: RealTimeJazzCodec, audio: torch.Tensor) -> torch.Tensor:
    """Cents of every note, (frames, notes), without normalisation."""
    latents, _ = codec.encoder(audio)
    return unpool_deviations(codec.config, latents[:, codec.config.energy_dim :].transpose(1, 2))[0]


class TestEncoder:
    @pytest.mark.parametrize("note", [28, 40, 52, 59, 60, 71, 83, 84, 100, 114])
    @pytest.mark.parametrize("cents", [-40, 0, 13, 45])
    def test_a_tone_is_found_where_it_is(self, codec, note, cents):
        found = measured(codec, tone(note, cents))[60:100, note - 24]
        # A window of 8,192 samples holds seven periods of E1, and their mirror image below zero disturbs a little.
        assert (found - cents).abs().max() < (6 if note < 40 else 1.5)

    def test_octaves_of_a_register_share_a_channel(self, codec):
        found = measured(codec, tone(60, 30))[80]
        assert found[72 - 24] == found[60 - 24]
        assert abs(found[48 - 24]) < 1  # another register
        assert abs(found[64 - 24]) < 1  # another pitch class

    def test_silence_stands_still(self, codec):
        assert not measured(codec, torch.zeros(1, 2, 48_000)).any()

    def test_what_sounds_softly_counts_for_nothing(self, codec):
        assert measured(codec, tone(60, 40, amplitude=1e-6))[80].abs().max() < 1

    def test_level_does_not_matter(self, codec):
        loud, soft = (measured(codec, tone(60, 40, amplitude=x))[80, 36] for x in (0.5, 0.02))
        assert abs(loud - soft) < 1.0

    def test_the_other_channels_are_those_of_a_codec_without(self, codec):
        plain = build(latent_dim=16, deviation_registers=())
        plain.encoder.load_state_dict(codec.encoder.state_dict())
        audio = tone(60, 20)
        latents, _ = codec.encoder(audio)
        assert torch.equal(latents[:, :16], plain.encoder(audio)[0])

    def test_normalised_zero_is_on_the_note(self, codec):
        mean = codec.config.latents_mean
        assert len(mean) == 52 and set(mean[16:]) == {0.0}


class TestDecoder:
    def bank(self, decoder: LappedDecoder, cents: torch.Tensor, amplitudes: torch.Tensor, state=None):
        """Windowless frames of the bank: (1, 2, frames, samples), and the state after them."""
        state = state or decoder.init_state(1)
        frame = state["frame"][:, None] + torch.arange(cents.shape[1])
        new = decoder.init_state(1)
        frames, new["turned"] = moving_tones(decoder.config, amplitudes, cents, frame, state["turned"])
        new["frame"] = state["frame"] + cents.shape[1]
        return frames, new

    def test_without_deviations_it_is_the_still_bank(self, codec):
        config, amplitudes = codec.config, torch.rand(1, 2, 5, 92)
        frame = torch.arange(1000, 1005)[None]
        still = still_tones(config, amplitudes, frame)
        frames, _ = moving_tones(config, amplitudes, torch.zeros(1, 5, 92), frame, torch.zeros(1, 92).long())
        torch.testing.assert_close(frames, still, atol=2e-4, rtol=0)

    @pytest.mark.parametrize("note, cents", [(36, 30.0), (69, -50.0), (115, 59.0)])
    def test_a_tone_has_the_asked_frequency_and_no_seams(self, codec, note, cents):
        frames_number = 40
        amplitudes = torch.zeros(1, 2, frames_number, 92)
        amplitudes[..., note - 24] = 1.0
        frames, _ = self.bank(codec.decoder, torch.full((1, frames_number, 92), cents), amplitudes)
        # The overlap of a frame is what the next one begins with.
        torch.testing.assert_close(frames[:, :, :-1, 640:], frames[:, :, 1:, :256], atol=2e-4, rtol=0)
        played = frames[0, 0, :, :640].flatten().double().numpy()
        phase = np.unwrap(np.angle(_analytic(played)))[2000:-2000]
        hertz = (phase[-1] - phase[0]) / (2 * np.pi) / (len(phase) - 1) * 48000
        assert abs(1200 * np.log2(hertz / (440 * 2 ** ((note - 69) / 12))) - cents) < 0.5

    def test_phase_goes_on_to_the_bit_however_a_stream_is_cut(self, codec):
        generator = torch.Generator().manual_seed(1)
        cents = 120 * torch.rand(1, 30, 92, generator=generator) - 60
        amplitudes = torch.ones(1, 2, 30, 92)
        _, whole = self.bank(codec.decoder, cents, amplitudes)
        state = None
        for part in (slice(0, 1), slice(1, 17), slice(17, 30)):
            _, state = self.bank(codec.decoder, cents[:, part], amplitudes[:, :, part], state)
        assert torch.equal(state["turned"], whole["turned"]) and state["turned"].dtype == torch.int64

    def test_latents_without_deviations_are_decoded_as_zeros(self, codec):
        latents = codec.encode(tone(60, 30), return_codes=False).latents
        still = latents.clone()
        still[:, 16:] = 0
        assert torch.equal(codec.decode(latents=latents[:, :16]).audio, codec.decode(latents=still).audio)
        assert not torch.equal(codec.decode(latents=latents).audio, codec.decode(latents=still).audio)
        with pytest.raises(ValueError, match=r"\(batch, 52, frames\) or \(batch, 16, frames\)"):
            codec.decode(latents=latents[:, :20])


def _analytic(signal: np.ndarray) -> np.ndarray:
    spectrum = np.fft.fft(signal)
    spectrum[len(signal) // 2 :] = 0
    return np.fft.ifft(2 * spectrum)


def test_channels_of_a_latent_far_beyond_are_held(codec):
    far = unpool_deviations(codec.config, torch.full((1, 1, 36), 1000.0 / UNIT))
    assert far.max() == 60.0


@pytest.mark.parametrize("registers", [REGISTERS, REGISTERS[1:], (31,)])
def test_each_note_has_one_channel_and_those_below_have_none(registers):
    members = constant("register_members", registers, 24, 92)
    assert members.shape == (92, 12 * len(registers)) and members.sum(0).min() >= 1
    assert torch.equal(members.sum(1), (torch.arange(24, 116) >= registers[0]).float())


def test_registers_above_are_measured_alike_whatever_lies_below(codec):
    """The long window is looked at only where a register reaches into it."""
    high = build(latent_dim=40, deviation_registers=REGISTERS[1:])
    high.encoder.load_state_dict(codec.encoder.state_dict())
    audio = tone(57, 30) + tone(64, -20) + tone(88, 40)
    both = codec.encoder(audio)[0][:, 28:]
    torch.testing.assert_close(high.encoder(audio)[0][:, 16:], both)
    assert both.abs().amax() > 1


@pytest.mark.parametrize(
    "wrong, said",
    [
        (dict(deviation_registers=(23, 60)), "lowest_note=24"),
        (dict(deviation_registers=(24, 24)), "rising"),
        (dict(deviation_registers=(24, 116)), "below 116"),
        (dict(deviation_registers=(24, 60.5)), "rising MIDI notes"),
        (dict(latent_dim=36), "more than the 36 channels"),
        (dict(phase="kept"), "phase='free'"),
        (dict(backbone="seanet"), "backbone='lapped'"),
    ],
)
def test_wrong_registers_are_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        build(**wrong)


def test_code_files_say_whether_tones_move(codec, tmp_path):
    """A file of a codec whose tones move has a version of its own; that of the others stays as it was."""
    codes = torch.zeros(4, 3, dtype=torch.int64)
    file = read_codes(write_codes(tmp_path / "moving.rtj", codes, codec))
    assert file.deviations == 36
    plain = build(latent_dim=16, deviation_registers=())
    old = read_codes(write_codes(tmp_path / "still.rtj", codes, plain))
    assert old.deviations == 0
    assert b'"format_version":"1"' in (tmp_path / "still.rtj").read_bytes()
    assert b'"format_version":"2"' in (tmp_path / "moving.rtj").read_bytes()
    file.check_codec(codec)
    with pytest.raises(ValueError, match="36 channels of deviations, this codec has 0"):
        file.check_codec(plain)
