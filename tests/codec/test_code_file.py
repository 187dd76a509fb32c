"""`.rtj` files: what goes in comes out, at the size promised; everything else is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny_models import plucked_clip

from rtjazz_hf.audio import read_audio
from rtjazz_hf.codec import (
    RealTimeJazzCodec,
    RealTimeJazzCodecConfig,
    codec_fingerprint,
    decode_file,
    encode_file,
    read_codes,
    write_codes,
)
from rtjazz_hf.codec.audio_file import PIECE_FRAMES, check_decoding
from rtjazz_hf.codec.code_file import bits_per_code

TINY = dict(
    encoder_hidden_size=16, encoder_layers=1, decoder_hidden_size=16, decoder_layers=1, noise_frames=50
)  # fmt: skip


def tiny_codec(seed: int = 0, **sizes) -> RealTimeJazzCodec:
    torch.manual_seed(seed)
    codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**{**TINY, "codebook_size": 64, **sizes}))
    codec.fit_start([plucked_clip(1.0)])
    return codec.eval()


@pytest.fixture(scope="module")
def codec():
    return tiny_codec()


def random_codes(codec: RealTimeJazzCodec, levels: int, frames: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, codec.config.codebook_size, (levels, frames), generator=generator)


class TestPacking:
    @pytest.mark.parametrize("size", [2, 3, 64, 1000, 2048, 65536])
    @pytest.mark.parametrize(("levels", "frames"), [(1, 1), (3, 7), (4, 101), (32, 5)])
    def test_round_trip(self, tmp_path, size, levels, frames):
        codec = RealTimeJazzCodec(
            RealTimeJazzCodecConfig(**TINY, latent_dim=2, codebook_size=size, num_codebooks=32)
        )
        codes = random_codes(codec, levels, frames)
        file = read_codes(write_codes(tmp_path / "a.rtj", codes, codec))
        assert file.codes.dtype == torch.int64 and torch.equal(file.codes, codes)
        assert len(file.packed) == -(-levels * frames * bits_per_code(size) // 8)
        assert torch.equal(torch.cat(list(file.pieces(3)), dim=1), codes)

    def test_more_than_one_piece(self, tmp_path, codec):
        codes = random_codes(codec, 3, 40_000)  # 18 bits a frame
        file = read_codes(write_codes(tmp_path / "a.rtj", codes.to(torch.int16).numpy(), codec))
        assert torch.equal(file.codes, codes)
        assert torch.equal(file.unpack(16_383, 33_001), codes[:, 16_383:33_001])
        assert file.unpack(40_000).shape == (3, 0)

    def test_the_bit_rate_is_the_size(self, tmp_path):
        codec = RealTimeJazzCodec(RealTimeJazzCodecConfig(**TINY))
        path = write_codes(tmp_path / "a.rtj", random_codes(codec, 4, 75 * 60), codec)
        file = read_codes(path)
        assert file.bitrate == codec.bitrate() == 3300
        assert len(file.packed) == 3300 * 60 // 8
        assert path.stat().st_size - len(file.packed) < 600

    def test_metadata(self, tmp_path, codec):
        path = write_codes(
            tmp_path / "a.rtj", random_codes(codec, 2, 10), codec, 6001, "rtjazz-mini", {"prompt": "Σwing"}
        )
        file = read_codes(path)
        assert (file.sampling_rate, file.hop_length, file.codebook_size) == (48_000, 640, 64)
        assert (file.num_codebooks, file.frames, file.samples) == (2, 10, 6001)
        assert (file.model, file.notes) == ("rtjazz-mini", {"prompt": "Σwing"})
        assert file.fingerprint == codec_fingerprint(codec, 2)
        assert file.duration == 6001 / 48_000
        with safe_open(path, "np") as plain:  # any safetensors reader opens it
            assert plain.get_tensor("codes").dtype == np.uint8


class TestCodecCheck:
    def test_fingerprint(self, codec):
        other = tiny_codec()
        assert codec_fingerprint(other) == codec_fingerprint(codec) != codec_fingerprint(codec, 2)
        with torch.no_grad():
            other.decoder.project_out.weight += 1  # plays otherwise, the codes mean the same
            other.quantizer.layers[3].embed += 1
        assert codec_fingerprint(other, 3) == codec_fingerprint(codec, 3)
        assert codec_fingerprint(other, 4) != codec_fingerprint(codec, 4)

    def test_fingerprint_covers_the_prediction(self):
        codec, other = (tiny_codec(prediction_levels=2) for _ in range(2))
        assert codec_fingerprint(other) == codec_fingerprint(codec)
        assert codec_fingerprint(tiny_codec(prediction_levels=3)) != codec_fingerprint(codec)
        for name in ("prediction", "start"):
            other = tiny_codec(prediction_levels=2)
            getattr(other.quantizer, name).add_(0.1)
            assert codec_fingerprint(other) != codec_fingerprint(codec)

    def test_more_levels_added_later_change_nothing(self, tmp_path, codec):
        more = tiny_codec(num_codebooks=6)
        for old, new in zip(codec.quantizer.layers, more.quantizer.layers):
            new.load_state_dict(old.state_dict())
        more.quantizer.offset.copy_(codec.quantizer.offset)
        read_codes(write_codes(tmp_path / "a.rtj", random_codes(codec, 4, 5), codec)).check_codec(more)

    def test_saved_and_loaded_is_the_same_codec(self, tmp_path, codec):
        codec.save_pretrained(tmp_path / "codec")
        assert codec_fingerprint(RealTimeJazzCodec.from_pretrained(tmp_path / "codec")) == codec_fingerprint(
            codec
        )

    def test_others_are_refused(self, tmp_path, codec):
        file = read_codes(write_codes(tmp_path / "a.rtj", random_codes(codec, 4, 5), codec, model="me/mine"))
        other = tiny_codec(seed=1)
        with pytest.raises(ValueError, match=r"other codebooks.*'me/mine'"):
            file.check_codec(other)
        file.check_codec(other, any_codebooks=True)
        with pytest.raises(ValueError, match="codebook_size=64, this codec has 32"):
            file.check_codec(tiny_codec(codebook_size=32), any_codebooks=True)
        with pytest.raises(ValueError, match="4 levels, this codec has 2"):
            file.check_codec(tiny_codec(num_codebooks=2), any_codebooks=True)


class TestRefusedToWrite:
    @pytest.mark.parametrize(
        ("codes", "options", "words"),
        [
            (torch.zeros(4, 5), {}, "whole numbers"),
            (torch.zeros(4, 5, dtype=torch.bool), {}, "whole numbers"),
            (torch.zeros(1, 4, 5, dtype=torch.long), {}, r"\(levels, frames\)"),
            (torch.zeros(5, 5, dtype=torch.long), {}, "5 levels"),
            (torch.zeros(4, 0, dtype=torch.long), {}, "0 frames"),
            (torch.full((4, 5), 64), {}, "0 to 63, got 64"),
            (torch.full((4, 5), -1), {}, "got -1"),
            (torch.zeros(4, 5, dtype=torch.long), {"samples": 5 * 640 + 1}, "samples=3201"),
            (torch.zeros(4, 5, dtype=torch.long), {"samples": 4 * 640}, "samples=2560"),
            (torch.zeros(4, 5, dtype=torch.long), {"notes": {"seed": 3}}, "'seed'"),
            (torch.zeros(4, 5, dtype=torch.long), {"notes": {"frames": "3"}}, "'frames'"),
        ],
    )
    def test_is_named_and_nothing_written(self, tmp_path, codec, codes, options, words):
        with pytest.raises(ValueError, match=words):
            write_codes(tmp_path / "a.rtj", codes, codec, **options)
        assert not list(tmp_path.iterdir())

    def test_paths(self, tmp_path, codec):
        codes = random_codes(codec, 4, 5)
        with pytest.raises(ValueError, match=r"\.rtj"):
            write_codes(tmp_path / "a.safetensors", codes, codec)
        (tmp_path / "a.rtj").write_bytes(b"precious")
        with pytest.raises(FileExistsError, match="overwrite"):
            write_codes(tmp_path / "a.rtj", codes, codec)
        assert (tmp_path / "a.rtj").read_bytes() == b"precious"
        write_codes(tmp_path / "a.rtj", codes, codec, overwrite=True)
        assert read_codes(tmp_path / "a.rtj").frames == 5


class TestRefusedToRead:
    """One good file, spoilt in one way each."""

    @pytest.fixture
    def spoil(self, tmp_path, codec):
        path = write_codes(tmp_path / "a.rtj", random_codes(codec, 3, 5), codec)
        with safe_open(path, "np") as file:
            metadata, tensor = file.metadata(), file.get_tensor("codes")

        def spoil(tensors=None, **changes):
            changed = {key: text for key, text in {**metadata, **changes}.items() if text is not None}
            save_file({"codes": tensor} if tensors is None else tensors, path, metadata=changed)
            return path

        assert read_codes(spoil()).frames == 5
        return spoil

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"format": "pt"}, "another kind"),
            ({"format_version": "3"}, "version '3'.*update"),
            ({"frames": "nan"}, "frames is 'nan'"),
            ({"samples": "NaN"}, "samples is 'NaN'"),
            ({"samples": "-5"}, "samples is '-5'"),
            ({"samples": "1e3"}, "samples is '1e3'"),
            ({"samples": "9" * 40}, "whole number"),
            ({"samples": "1"}, "samples=1 do not fit 5 frames"),
            ({"hop_length": "0"}, "hop_length is '0'"),
            ({"hop_length": None}, "hop_length is None"),
            ({"sampling_rate": "48 kHz"}, "'48 kHz'"),
            ({"num_codebooks": "33"}, r"num_codebooks=33 is not in 1\.\.32"),
            ({"num_codebooks": "4"}, "4 levels need"),
            ({"frames": "999999999999", "samples": "639999999999360"}, "need uint8"),
            ({"codebook_size": "1"}, "codebook_size=1"),
            ({"codebook_size": "2048"}, "need uint8"),
            ({"codebook_size": "33"}, r"holds the code \d+"),
            ({"fingerprint": "mine"}, "'mine'"),
            ({"fingerprint": None}, "fingerprint"),
            ({"crc32": "00000000"}, "damaged"),
        ],
    )
    def test_metadata(self, spoil, changes, words):
        with pytest.raises(ValueError, match=rf"a\.rtj.*{words}"):
            read_codes(spoil(**changes))

    @pytest.mark.parametrize(
        ("tensors", "words"),
        [
            ({}, "holds"),
            ({"codes": np.zeros(12, np.uint8), "more": np.zeros(1)}, "alone"),
            ({"codes": np.zeros((3, 5), np.int16)}, r"int16 \(3, 5\)"),
            ({"codes": np.zeros((12, 1), np.uint8)}, r"\(12, 1\)"),
            ({"codes": np.full(12, 255, np.uint8)}, "bits after its last code"),
            ({"codes": np.zeros(12, np.uint8)}, "damaged"),
        ],
    )
    def test_tensors(self, spoil, tensors, words):
        with pytest.raises(ValueError, match=rf"a\.rtj.*{words}"):
            read_codes(spoil(tensors))

    def test_cut_anywhere(self, spoil, tmp_path):
        content = spoil().read_bytes()
        for size in (0, 1, 7, 8, 100, len(content) // 2, len(content) - 1):
            (tmp_path / "cut.rtj").write_bytes(content[:size])
            with pytest.raises(ValueError, match=r"cut\.rtj"):
                read_codes(tmp_path / "cut.rtj")
        (tmp_path / "cut.rtj").write_bytes(content + b"\0")
        with pytest.raises(ValueError, match=r"cut\.rtj"):
            read_codes(tmp_path / "cut.rtj")

    def test_any_other_file(self, tmp_path):
        (tmp_path / "a.rtj").write_text("RIFF, perhaps, or a poem of some length")
        with pytest.raises(ValueError, match="not a code file"):
            read_codes(tmp_path / "a.rtj")
        save_file({"codes": np.zeros(3, np.uint8)}, tmp_path / "b.rtj")
        with pytest.raises(ValueError, match="another kind"):
            read_codes(tmp_path / "b.rtj")
        with pytest.raises(FileNotFoundError, match=r"gone\.rtj"):
            read_codes(tmp_path / "gone.rtj")
        with pytest.raises(IsADirectoryError):
            read_codes(tmp_path)


def write_wav(path, samples: int, rate: int = 48_000, channels: int = 2, seed: int = 0):
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / rate
    tone = 0.2 * np.sin(2 * np.pi * 330 * time) * np.exp(-3 * (time % 0.7))
    sound = tone[:, None] + 0.02 * rng.standard_normal((samples, channels))
    soundfile.write(path, sound, rate)
    return path


class TestWholeFiles:
    """Piece by piece is as at once, for every length."""

    PIECE = PIECE_FRAMES * 640

    @pytest.mark.parametrize(
        ("samples", "rate", "channels"),
        [
            (1, 48_000, 2),
            (640, 48_000, 1),
            (641, 48_000, 2),
            (PIECE, 48_000, 2),
            (PIECE + 1, 48_000, 2),
            (2 * PIECE + 333, 48_000, 1),
            (1_000_001, 44_100, 2),
            (200_000, 8_000, 1),
        ],
    )
    @pytest.mark.parametrize("backbone", ["lapped", "seanet"])
    def test_equal_to_the_codec_at_once(self, tmp_path, codec, samples, rate, channels, backbone):
        if backbone == "seanet":
            codec = tiny_codec(backbone="seanet", seanet_filters=2)
        wav = write_wav(tmp_path / "a.wav", samples, rate, channels)
        audio = torch.from_numpy(read_audio(wav))[None]
        file = read_codes(encode_file(codec, wav, tmp_path / "a.rtj", 3))
        whole = codec.encode(audio, num_codebooks=3).codes
        assert file.samples == audio.shape[-1]
        assert torch.equal(file.codes, whole[0])

        seconds = []
        decode_file(codec, file, tmp_path / "b.wav", on_progress=seconds.append)
        played = read_audio(tmp_path / "b.wav")
        assert played.shape == audio.shape[1:]
        assert sum(seconds) == pytest.approx(audio.shape[-1] / 48_000)
        expected = codec.decode(codes=whole).audio[0, :, : audio.shape[-1]].clamp(-1, 1).numpy()
        assert np.abs(played - expected).max() < 1e-4  # 16 bits

    @pytest.mark.parametrize("fault", ["cut", "nan", "surround", "empty"])
    def test_a_bad_recording_writes_nothing(self, tmp_path, codec, fault):
        wav = tmp_path / "a.wav"
        sound = np.random.default_rng(0).uniform(-0.1, 0.1, (700_000, 2)).astype(np.float32)
        if fault == "nan":  # found in the second piece
            sound[600_000] = np.nan
        sound = {"surround": np.zeros((100, 6), np.float32), "empty": sound[:0]}.get(fault, sound)
        soundfile.write(wav, sound, 48_000, subtype="FLOAT")
        if fault == "cut":
            wav.write_bytes(wav.read_bytes()[:100_000])
        with pytest.raises(ValueError, match=r"a\.wav"):
            encode_file(codec, wav, tmp_path / "a.rtj")
        assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]

    def test_another_codec_plays_nothing(self, tmp_path, codec):
        path = write_codes(tmp_path / "a.rtj", random_codes(codec, 4, 20), codec)
        with pytest.raises(ValueError, match="other codebooks"):
            decode_file(tiny_codec(seed=1), path, tmp_path / "a.wav")
        assert not (tmp_path / "a.wav").exists()
        decode_file(tiny_codec(seed=1), path, tmp_path / "a.wav", any_codebooks=True)
        assert soundfile.info(tmp_path / "a.wav").frames == 20 * 640

    def test_more_than_a_wav_holds(self, tmp_path, codec):
        frames = 7 * 3600 * 75
        file = read_codes(write_codes(tmp_path / "a.rtj", np.zeros((1, frames), np.uint8), codec))
        with pytest.raises(ValueError, match=r"7\.0 hours.*flac"):
            check_decoding(codec, file, tmp_path / "a.wav")
        check_decoding(codec, file, tmp_path / "a.flac")

    def test_the_bundled_codec(self, tmp_path):
        from rtjazz_hf.hub import load_codec

        codec = load_codec("rtjazz-mini")
        wav = write_wav(tmp_path / "a.wav", 2 * self.PIECE // 3 * 2 + 77)
        file = read_codes(encode_file(codec, wav, tmp_path / "a.rtj"))
        whole = codec.encode(torch.from_numpy(read_audio(wav))[None]).codes
        assert torch.equal(file.codes, whole[0])
