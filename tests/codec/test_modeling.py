"""The codec as a model: shapes, streaming equals whole, saved equals loaded, bad input."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_models import MOVING

from rtjazz_hf.codec import RealTimeJazzCodec, RealTimeJazzCodecConfig, spectral_loss, waveform_loss

HOP = 640
TINY = dict(
    latent_dim=16, codebook_size=32, encoder_hidden_size=32, encoder_layers=1, decoder_hidden_size=32,
    decoder_layers=1, expansion=2, noise_frames=50, seanet_filters=4,
)  # fmt: skip
KINDS = [
    dict(backbone="lapped", phase="free"),
    dict(backbone="lapped", phase="free", latent_dim=40, **MOVING),
    dict(backbone="lapped", phase="kept"),
    dict(backbone="seanet"),
]


def music(seconds: float = 1.5, rows: int = 1, seed: int = 0) -> torch.Tensor:
    """A chord of decaying partials with a noise burst a beat: (rows, 2, samples)."""
    rng = np.random.default_rng(seed)
    time = np.arange(int(seconds * 48000)) / 48000
    clips = []
    for _ in range(rows):
        left = sum(np.sin(2 * np.pi * f * time) for f in rng.choice([220.0, 261.6, 329.6, 392.0, 440.0], 3))
        noise = rng.standard_normal(len(time)) * np.exp(-((time % 0.5) * 30))
        clips.append(np.stack([0.1 * left + 0.1 * noise, 0.07 * left + 0.1 * noise]))
    return torch.from_numpy(np.stack(clips)).float()


@pytest.fixture(scope="module", params=KINDS, ids=["free", "moving", "kept", "seanet"])
def codec(request) -> RealTimeJazzCodec:
    return fitted(request.param)


def fitted(kind: dict) -> RealTimeJazzCodec:
    torch.manual_seed(0)
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**{**TINY, **kind}))
    codec.fit_start([music(2.0)])
    for parameter in codec.parameters():  # the zero-initialised outputs must matter in these tests
        if parameter.requires_grad and parameter.abs().sum() == 0:
            torch.nn.init.normal_(parameter, std=0.02)
    latents = codec.encode(music(4.0, seed=1), return_codes=False).latents
    codec.quantizer.fit(latents[0].T, iterations=3)
    return codec.eval()


class TestStreaming:
    def test_frames(self, codec):
        encoded = codec.encode(music()[..., : 10 * HOP + 1])
        assert encoded.latents.shape == (1, codec.config.latent_dim, 11)
        assert encoded.codes.shape == (1, 4, 11) and encoded.codes.dtype == torch.int64
        assert codec.decode(codes=encoded.codes).audio.shape == (1, 2, 11 * HOP)

    def test_encode_in_pieces_equals_whole(self, codec):
        audio = music()
        whole = codec.encode(audio, return_codes=False).latents
        state, parts = codec.init_encoder_state(1), []
        cuts = [0, 1, 700, 895, 897, 20000, 20001, audio.shape[-1]]
        for start, stop in pairwise(cuts):
            last = stop == audio.shape[-1]
            out = codec.encode(audio[..., start:stop], state=state, flush=last, return_codes=False)
            parts.append(out.latents)
            state = out.state
        torch.testing.assert_close(torch.cat(parts, -1), whole, atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("samples", [1, HOP - 1, 4 * HOP, 4 * HOP + 1, 4 * HOP + 333])
    def test_no_cut_costs_the_last_frame(self, codec, samples):
        """Wherever the pieces end, an empty one included, a stream has the frames of the whole."""
        audio = music()[..., :samples]
        whole = codec.encode(audio).codes
        assert whole.shape[-1] == -(-samples // HOP)
        for piece in (1, 333, HOP, 3 * HOP):
            if piece == 1 and samples > 1:
                continue  # thousands of steps
            state, parts = codec.init_encoder_state(1), []
            for part in (*audio.split(piece, dim=-1), audio[..., :0]):
                out = codec.encode(part, state=state, flush=part.shape[-1] == 0)
                parts.append(out.codes)
                state = out.state
            assert torch.equal(torch.cat(parts, -1), whole)

    @pytest.mark.parametrize("seed", [0, 1])
    def test_decode_in_pieces_equals_whole(self, codec, seed):
        latents = codec.encode(music(rows=2), return_codes=False).latents
        whole = codec.decode(latents=latents).audio
        cuts = np.random.default_rng(seed).choice(np.arange(1, latents.shape[-1]), 6, replace=False)
        cuts = [0, *sorted(cuts.tolist()), latents.shape[-1]]
        state, parts = None, []
        for start, stop in pairwise(cuts):
            out = codec.decode(latents=latents[..., start:stop], state=state)
            parts.append(out.audio)
            state = out.state
        torch.testing.assert_close(torch.cat(parts, -1), whole, atol=1e-5, rtol=1e-5)

    def test_old_state_can_be_resumed(self, codec):
        latents = codec.encode(music(), return_codes=False).latents
        state = codec.decode(latents=latents[..., :20]).state
        first = codec.decode(latents=latents[..., 20:40], state=state).audio
        assert torch.equal(first, codec.decode(latents=latents[..., 20:40], state=state).audio)

    def test_rows_do_not_mix(self, codec):
        audio = music(rows=3)
        whole = codec.encode(audio, return_codes=False).latents
        alone = codec.encode(audio[1:2], return_codes=False).latents
        torch.testing.assert_close(whole[1:2], alone, atol=1e-4, rtol=1e-4)

    def test_causal(self, codec):
        """A frame knows nothing later than its own end and the overlap."""
        audio = music()
        changed = audio.clone()
        changed[..., 30 * HOP + codec.config.overlap :] = 0
        before = codec.encode(audio, return_codes=False).latents[..., :30]
        after = codec.encode(changed, return_codes=False).latents[..., :30]
        torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


class TestCodes:
    def test_codebooks_sum_to_latents(self, codec):
        codes = codec.encode(music()).codes
        vectors = codec.codebooks
        total = codec.latents_offset[None, :, None] + sum(
            vectors[k][codes[:, k]].transpose(1, 2) for k in range(4)
        )
        torch.testing.assert_close(codec.codes_to_latents(codes), total, atol=1e-4, rtol=1e-4)

    def test_fewer_levels(self, codec):
        assert codec.encode(music(), num_codebooks=2).codes.shape[1] == 2
        with pytest.raises(ValueError, match="num_codebooks=9"):
            codec.encode(music(), num_codebooks=9)

    def test_more_levels_than_the_standard_where_asked_for(self):
        torch.manual_seed(0)
        sizes = dict(num_codebooks=2, max_codebooks=6, prediction_levels=2, codebook_dim=(16, 16, 4, 4, 4, 4))
        codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**TINY | sizes)).eval()
        codec.fit_start([music(2.0)])
        codec.fit_codes([music(4.0, seed=1)], iterations=3)
        assert codec.encode(music()).codes.shape[1] == 2 and codec.codebooks.shape[0] == 2
        encoded = codec.encode(music(), num_codebooks=6)
        errors = [
            (codec.codes_to_latents(encoded.codes[:, :levels]) - encoded.latents).square().mean()
            for levels in (2, 4, 6)
        ]
        assert errors[2] < errors[1] < errors[0]
        assert codec.bitrate() == 2 * 5 * 75 and codec.bitrate(6) == 6 * 5 * 75
        with pytest.raises(ValueError, match="num_codebooks=7"):
            codec.encode(music(), num_codebooks=7)
        with pytest.raises(ValueError, match="max_codebooks=2"):
            RealTimeJazzCodecConfig(num_codebooks=4, max_codebooks=2)

    def test_bitrate_of_the_standard_codec(self):
        config = RealTimeJazzCodecConfig()
        codec = RealTimeJazzCodec(config)
        assert codec.bitrate() == 3300 and codec.bitrate(2) == 1650
        assert config.latency_samples / config.sampling_rate < 0.020


class TestLookAhead:
    """Tones of long windows are measured some frames later, unless a stream asks for low delay."""

    @pytest.fixture(scope="class", params=KINDS[:2], ids=["free", "moving"])
    def pair(self, request):
        """A codec that looks ahead, and the same that does not."""
        codec = fitted(request.param)
        config = {**codec.config.to_dict(), "look_ahead": (5, 1)}
        ahead = RealTimeJazzCodec(RealTimeJazzCodecConfig(**config)).eval()
        ahead.load_state_dict(codec.state_dict())
        return ahead, codec

    @pytest.mark.parametrize("cuts", [[0, 1, 700, 897, 20000, 20001], [0, HOP, 4 * HOP, 6 * HOP + 1, 11 * HOP]])
    def test_pieces_equal_whole(self, pair, cuts):
        codec, audio = pair[0], music()
        whole = codec.encode(audio)
        state, codes = codec.init_encoder_state(1), []
        for start, stop in pairwise([*cuts, audio.shape[-1], audio.shape[-1]]):
            out = codec.encode(audio[..., start:stop], state=state, flush=start == stop)
            codes.append(out.codes)
            state = out.state
        assert whole.codes.shape[-1] == -(-audio.shape[-1] // HOP)
        assert torch.equal(torch.cat(codes, -1), whole.codes)

    def test_low_delay_is_as_without(self, pair):
        ahead, plain = pair
        audio = music()
        frame = ahead.config.latency_samples
        for codec, low_delay, frames in ((ahead, True, 1), (ahead, False, 0), (plain, False, 1)):
            state = codec.init_encoder_state(1, low_delay)
            assert codec.encode(audio[..., :frame], state=state).latents.shape[-1] == frames
        encoded = ahead.encode(audio, state=ahead.init_encoder_state(1, low_delay=True), flush=True)
        assert torch.equal(encoded.latents, plain.encode(audio).latents)

    def test_low_tones_come_earlier(self, pair):
        """What is measured of the lowest tones, alone, is what the codec beside it measures five frames later."""
        low = []
        for codec in pair:
            codec = copy.deepcopy(codec)
            with torch.no_grad():
                codec.encoder.project_out.weight.zero_()
                codec.encoder.components.weight[:, 36:].zero_()
            low.append(codec.encode(music()).latents[:, : codec.config.energy_dim])
        torch.testing.assert_close(low[0][..., :-5], low[1][..., 5:], atol=1e-4, rtol=1e-4)

    @pytest.mark.parametrize("given", [(1,), (1, 2, 3), (-1, 0), (1.5, 0), 3, "5,1"])
    def test_refused(self, given):
        with pytest.raises(ValueError, match="must be two whole numbers of frames"):
            RealTimeJazzCodecConfig(look_ahead=given)

    def test_refused_without_tones(self):
        for other in ({"phase": "kept"}, {"backbone": "seanet"}):
            with pytest.raises(ValueError, match="only that encoder measures tones"):
                RealTimeJazzCodecConfig(look_ahead=(5, 1), **other)


@pytest.fixture(scope="module", params=["lapped", "seanet"])
def predictive(request) -> RealTimeJazzCodec:
    torch.manual_seed(0)
    config = RealTimeJazzCodecConfig(
        **TINY, backbone=request.param, num_codebooks=6, prediction_levels=4, codebook_dim=[16] * 4 + [4] * 2
    )
    codec = RealTimeJazzCodec(config).eval()
    codec.fit_start([music(2.0)])
    codec.fit_codes([music(4.0, seed=1), music(3.0, seed=2)], torch.Generator().manual_seed(0), iterations=3)
    return codec


class TestPrediction:
    """Codes that depend on the frames before: the streaming state of the codec carries what they stand on."""

    @pytest.mark.parametrize("levels", [2, 4, 6])
    def test_codes_in_pieces_equal_whole(self, predictive, levels):
        audio = music()
        whole = predictive.encode(audio, num_codebooks=levels).codes
        state, codes = predictive.init_encoder_state(1), []
        for piece in (*audio.split(5000, dim=-1), audio[..., :0]):
            out = predictive.encode(piece, levels, state=state, flush=piece.shape[-1] == 0)
            codes.append(out.codes)
            state = out.state
        assert torch.equal(torch.cat(codes, -1), whole)
        state, parts = None, []
        for piece in whole.split([1, 0, 30, whole.shape[-1] - 31], dim=-1):
            out = predictive.decode(codes=piece, state=state)
            parts.append(out.audio)
            state = out.state
        expected = predictive.decode(codes=whole).audio
        torch.testing.assert_close(torch.cat(parts, -1), expected, atol=1e-5, rtol=1e-5)

    def test_latents_may_follow_codes(self, predictive):
        encoded = predictive.encode(music())
        first = predictive.decode(codes=encoded.codes[..., :20])
        second = predictive.decode(latents=encoded.latents[..., 20:25], state=first.state)
        assert torch.equal(second.state["codes"], first.state["codes"])
        third = predictive.decode(codes=encoded.codes[..., 25:], state=second.state)
        assert torch.isfinite(third.audio).all()
        begun = predictive.decode(latents=encoded.latents[..., :5])
        assert predictive.decode(codes=encoded.codes[..., 5:], state=begun.state).audio.isfinite().all()

    def test_streams_join_and_part(self, predictive):
        codes = predictive.encode(music(rows=2)).codes
        states = [predictive.decode(codes=codes[row : row + 1, :, :10]).state for row in range(2)]
        both = predictive.decode(codes=codes[..., 10:], state=type(states[0]).cat(states)).audio
        whole = predictive.decode(codes=codes).audio[..., 10 * HOP :]
        torch.testing.assert_close(both, whole, atol=1e-5, rtol=1e-5)

    def test_saved_equals_loaded(self, predictive, tmp_path):
        predictive.save_pretrained(tmp_path)
        loaded, info = RealTimeJazzCodec.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert loaded.config.codebook_dim == (16, 16, 16, 16, 4, 4) and loaded.config.prediction_levels == 4
        codes = predictive.encode(music()).codes
        assert torch.equal(loaded.encode(music()).codes, codes)
        assert torch.equal(loaded.codes_to_latents(codes), predictive.codes_to_latents(codes))

    def test_without_prediction_there_is_nothing_to_carry(self, codec):
        assert not any("prediction" in name or "start" in name for name in codec.quantizer.state_dict())
        assert "codes" not in codec.decode(codes=codec.encode(music()).codes).state


class TestSaveLoad:
    def test_round_trip_is_bit_equal(self, codec, tmp_path):
        codec.save_pretrained(tmp_path)
        loaded, info = RealTimeJazzCodec.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        loaded.eval()
        encoded = codec.encode(music())
        again = loaded.encode(music())
        assert torch.equal(encoded.latents, again.latents) and torch.equal(encoded.codes, again.codes)
        assert torch.equal(codec.decode(codes=encoded.codes).audio, loaded.decode(codes=encoded.codes).audio)


class TestSound:
    """The transform start alone, with no learning, keeps what it promises."""

    def test_free_start_keeps_the_notes(self):
        codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(encoder_layers=1, decoder_layers=1))
        codec.fit_start([music(4.0, seed=seed) for seed in range(4)])
        time = torch.arange(48000) / 48000
        tone = 0.2 * torch.sin(2 * torch.pi * 440 * time).expand(1, 2, -1)
        back = codec.decode(latents=codec.encode(tone, return_codes=False).latents).audio[0, 0, 24000:]
        spectrum = torch.fft.rfft(back * torch.hann_window(len(back))).abs()
        assert abs(spectrum.argmax().item() * 2 - 440) <= 4  # Hz

    @pytest.mark.parametrize("tones_per_note", [1, 2])
    def test_sharpening_lowers_what_stands_beside_a_partial_and_nothing_else(self, tones_per_note):
        sizes = {**TINY, "tones_per_note": tones_per_note}
        codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**sizes, tone_sharpening=0.5))
        reach = 2 * tones_per_note
        level = torch.full((1, 1, codec.config.num_tones), -8.0)
        level[..., [20, 60]] = torch.tensor([0.0, -2.0])
        expected = level.clone()
        expected[..., 20 - reach : 21 + reach] -= 4.0  # half of the 8 that they lie below
        expected[..., 60 - reach : 61 + reach] -= 3.0
        expected[..., [20, 60]] = torch.tensor([0.0, -2.0])
        torch.testing.assert_close(codec.decoder._sharpened(level), expected)
        plain = RealTimeJazzCodec(RealTimeJazzCodecConfig(**sizes))
        assert torch.equal(plain.decoder._sharpened(level), level)

    def test_same_codes_give_the_same_noise(self, codec):
        codes = codec.encode(music()).codes
        assert torch.equal(codec.decode(codes=codes).audio, codec.decode(codes=codes).audio)


class TestTraining:
    def test_loss_falls(self):
        torch.manual_seed(0)
        codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**TINY))
        audio = music(1.0, rows=2)
        codec.fit_start([audio])
        optimizer = torch.optim.Adam(codec.parameters(), lr=2e-3)
        losses = []
        for _ in range(12):
            loss = spectral_loss(codec(audio).audio, audio)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.95 * losses[0]

    def test_quantiser_learns_along(self):
        codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**TINY)).train()
        codec.fit_start([music()])
        out = codec(
            music(rows=2), levels=torch.tensor([0, 3]), latent_noise=0.1, start_frame=torch.tensor([3, 40])
        )
        assert out.quantizer.codes.shape[1] == 4 and codec.quantizer.is_initialized
        assert torch.isfinite(out.quantizer.loss)

    @pytest.mark.parametrize("prediction_levels", [0, 3])
    def test_rows_go_through_as_many_levels_as_they_are_told(self, prediction_levels):
        torch.manual_seed(0)
        codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**TINY, prediction_levels=prediction_levels)).eval()
        codec.fit_start([music()])
        codec.fit_codes([music(3.0)], iterations=2)
        latents = codec.encode(music(rows=3), return_codes=False).latents
        out = codec.quantizer(latents, levels=torch.tensor([0, 1, 4]), mid_stream=True)
        errors = (out.quantized - latents).square().mean(dim=(1, 2))
        assert errors[0] == 0 < errors[2] < errors[1]
        if prediction_levels:  # cut from a stream, a row needs no time to find its level
            cut, four = latents[..., 30:], torch.tensor([4, 4, 4])
            cold = codec.quantizer(cut, levels=four).quantized - cut
            warm = codec.quantizer(cut, levels=four, mid_stream=True).quantized - cut
            assert warm[..., 0].square().mean() < 0.5 * cold[..., 0].square().mean()

    def test_losses_are_zero_for_equal_audio(self):
        audio = music()
        assert spectral_loss(audio, audio) == 0 and waveform_loss(audio, audio) == 0


class TestBadInput:
    @pytest.mark.parametrize(
        ("audio", "message"),
        [
            (torch.zeros(2, 48000), "batch, 2, samples"),
            (torch.zeros(1, 1, 48000), "mono"),
            (torch.zeros(1, 2, 0), "no samples"),
            (torch.zeros(1, 2, 48000, dtype=torch.int16), "floating point"),
            (torch.full((1, 2, 4800), float("nan")), "NaN"),
            (torch.full((1, 2, 4800), -float("inf")), "NaN or infinite"),
            (torch.zeros(0, 2, 4800), "batch is empty"),
            (torch.zeros(1, 6, 4800), "batch, 2, samples"),
            (torch.full((1, 2, 4800), 32767.0), "as large as 32767; scale PCM"),
            (np.zeros((1, 2, 4800), np.float32), "ndarray"),
        ],
    )
    def test_audio(self, codec, audio, message):
        with pytest.raises(ValueError, match=message):
            codec.encode(audio)

    @pytest.mark.parametrize("levels", [0, 5, 1.5, "2"])
    def test_levels(self, codec, levels):
        with pytest.raises(ValueError, match=r"1\.\.4"):
            codec.encode(music(), num_codebooks=levels)

    def test_streams_of_another_batch(self, codec):
        state = codec.encode(music(), state=codec.init_encoder_state(1)).state
        with pytest.raises(ValueError, match="1 streams, the batch has 2"):
            codec.encode(music(rows=2), state=state)
        codes = torch.zeros(2, 4, 3, dtype=torch.long)
        with pytest.raises(ValueError, match="2 streams, the batch has 1"):
            codec.decode(codes=codes[:1], state=codec.decode(codes=codes).state)
        with pytest.raises(ValueError, match="got dict"):
            codec.decode(codes=codes, state={})

    def test_any_floating_type_quiet_loud_or_short_is_taken(self, codec):
        for audio in (music().double(), music().half(), music() * 1e-42, music()[..., :1], 30 * music()):
            encoded = codec.encode(audio)
            assert torch.isfinite(encoded.latents).all()
            assert encoded.codes.shape[-1] == -(-audio.shape[-1] // HOP)

    def test_decode_wants_one_input(self, codec):
        with pytest.raises(ValueError, match="exactly one"):
            codec.decode()
        with pytest.raises(ValueError, match=f"{codec.config.latent_dim}, frames"):
            codec.decode(latents=torch.zeros(1, 3, 5))
        with pytest.raises(ValueError, match="must be tensors"):
            codec.decode(codes=np.zeros((1, 4, 5), int))
        with pytest.raises(ValueError, match="batch is empty"):
            codec.decode(latents=torch.zeros(0, codec.config.latent_dim, 5))

    def test_config(self):
        with pytest.raises(ValueError, match="backbone"):
            RealTimeJazzCodecConfig(backbone="mp3")
        with pytest.raises(ValueError, match="multiply"):
            RealTimeJazzCodecConfig(backbone="seanet", seanet_strides=(2, 2))
        for wrong in (-0.1, float("inf"), float("nan"), "much", True):
            with pytest.raises(ValueError, match="tone_sharpening="):
                RealTimeJazzCodecConfig(tone_sharpening=wrong)
        with pytest.raises(ValueError, match="latents_std"):
            RealTimeJazzCodecConfig(latents_std=(1.0,))


def test_trains_after_it_has_played_under_inference_mode():
    """Tables are made once and shared by all codecs of a process, whoever asks first."""
    from rtjazz_hf.codec import transforms

    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**TINY, **KINDS[0]))
    codec.fit_start([music(2.0)])
    transforms._constant.cache_clear()
    with torch.inference_mode():
        codec.decode(latents=torch.zeros(1, 16, 8))
    codec.train()(music(0.3)).audio.square().mean().backward()
