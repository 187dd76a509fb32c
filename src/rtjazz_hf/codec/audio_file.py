"""Sound files of any length to `.rtj` files and back, a few seconds at a time.

Beside the model, memory holds a piece of the recording and two bytes a code: 2 MB an hour at 4 levels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from rtjazz_hf.audio import check_output_path, read_audio_blocks, write_audio_blocks

from .code_file import CODE_SUFFIX, CodeFile, read_codes, write_codes
from .modeling_realtime_jazz_codec import RealTimeJazzCodec

# A multiple of the frames that the encoder computes at once, so that rounding too is that of the whole: 10.24 s.
PIECE_FRAMES = 768
_MAX_WAV_BYTES = 2**32 - 4096


@torch.no_grad()
def encode_file(
    codec: RealTimeJazzCodec,
    source: str | os.PathLike,
    path: str | os.PathLike,
    num_codebooks: int | None = None,
    model: str = "",
    notes: Mapping[str, str] | None = None,
    overwrite: bool = False,
    on_progress: Callable[[float], object] | None = None,
) -> Path:
    """Encode a sound file (wav, flac, ogg, mp3; any rate; mono is doubled) to a `.rtj` file; the path written.

    The codes are those of `codec.encode(read_audio(source))`.

    Args:
        num_codebooks (`int`, *optional*): levels; all by default.
        model, notes: see [`write_codes`].
        on_progress: called with the seconds that each piece has brought.

    Raises:
        ValueError: as `read_audio` (corrupt, cut short, more than 2 channels, NaN, no samples), `codec.encode` and
            `write_codes`.
        OSError: there is no such file, or `path` cannot be written.
    """
    path = check_output_path(path, (CODE_SUFFIX,), overwrite)
    rate = codec.config.sampling_rate
    state, codes, samples = codec.init_encoder_state(1), [], 0
    blocks = read_audio_blocks(source, sampling_rate=rate)
    for piece, last in _whole_pieces(blocks, PIECE_FRAMES * codec.config.hop_length):
        encoded = codec.encode(torch.from_numpy(piece)[None], num_codebooks, state=state, flush=last)
        state = encoded.state
        codes.append(encoded.codes[0].cpu().numpy().astype(np.uint16))
        samples += piece.shape[1]
        if on_progress:
            on_progress(piece.shape[1] / rate)
    return write_codes(path, np.concatenate(codes, axis=1), codec, samples, model, notes, overwrite)


@torch.no_grad()
def decode_file(
    codec: RealTimeJazzCodec,
    source: CodeFile | str | os.PathLike,
    path: str | os.PathLike,
    overwrite: bool = False,
    any_codebooks: bool = False,
    on_progress: Callable[[float], object] | None = None,
) -> Path:
    """Play a `.rtj` file into a wav, flac or ogg of exactly the samples that were encoded; the path written.

    Args:
        source: the path of a `.rtj` file, or what `read_codes` gave.
        any_codebooks (`bool`): see [`CodeFile.check_codec`].
        on_progress: called with the seconds of each piece.

    Raises:
        ValueError: as `read_codes` and `CodeFile.check_codec`; a wav that would be larger than wavs can be.
        OSError: there is no such file, or `path` cannot be written.
    """
    file = source if isinstance(source, CodeFile) else read_codes(source)
    check_decoding(codec, file, path, any_codebooks)

    def blocks() -> Iterator[np.ndarray]:
        state, left = None, file.samples
        for codes in file.pieces(PIECE_FRAMES):
            decoded = codec.decode(codes=codes[None].to(codec.device), state=state)
            state = decoded.state
            audio = decoded.audio[0, :, :left].cpu().numpy()
            left -= audio.shape[1]
            yield audio
            if on_progress:
                on_progress(audio.shape[1] / file.sampling_rate)

    return write_audio_blocks(path, blocks(), overwrite, file.sampling_rate)


def check_decoding(
    codec: RealTimeJazzCodec, file: CodeFile, path: str | os.PathLike, any_codebooks: bool = False
) -> None:
    """Say before the work whether `decode_file` can do it; raises ValueError as that does."""
    file.check_codec(codec, any_codebooks)
    if Path(path).suffix.lower() == ".wav" and file.samples * 4 > _MAX_WAV_BYTES:  # 16 bits, 2 channels
        hours = file.duration / 3600
        raise ValueError(f"a wav holds at most 4 GiB, and {hours:.1f} hours are more; write a flac instead.")


def _whole_pieces(blocks: Iterator[np.ndarray], samples: int) -> Iterator[tuple[np.ndarray, bool]]:
    """Blocks (2, any) as pieces (2, `samples`), and whether each is the last, which may be shorter."""
    rest = np.zeros((2, 0), np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block], axis=1)
        while rest.shape[1] > samples:  # not >=: the last piece is not empty
            yield rest[:, :samples], False
            rest = rest[:, samples:]
    yield rest, True


__all__ = ["check_decoding", "decode_file", "encode_file"]
