"""`.rtj`: the codes of one recording in a file as small as their bit rate says.

A safetensors file with one tensor, `codes` (uint8): the codes frame after frame, of each frame level after level,
each in `ceil(log2(codebook_size))` bits, the highest first; zeros fill the last byte. 4 levels of 2,048 entries
are 44 bits a frame, 3.3 kbit/s. Its metadata, about 400 bytes, say how to read them, which codebooks they are
codes of, and how many samples the recording had.
"""

from __future__ import annotations

import hashlib
import operator
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rtjazz_hf.audio import check_output_path
from rtjazz_hf.runtime.bundled import BUNDLED_MODELS
from rtjazz_hf.runtime.files import whole_or_not_at_all

from .quantizer import MAX_CODEBOOKS

if TYPE_CHECKING:
    from .modeling_realtime_jazz_codec import RealTimeJazzCodec

CODE_SUFFIX = ".rtj"
CODE_FORMAT = "rtjazz-codes"
CODE_VERSION = 1
MOVING_VERSION = 2  # of codes that also say how far tones stand beside their notes; has `deviations`, how many channels

_NUMBERS = ("sampling_rate", "hop_length", "codebook_size", "num_codebooks", "frames", "samples")
_MAX_BITS = 16  # a code; 65,536 entries
_PIECE_FRAMES = 1 << 14  # packed or unpacked at once; a multiple of 8, so that pieces end on whole bytes


def bits_per_code(codebook_size: int) -> int:
    """Bits that hold any code of `codebook_size` entries: 11 for 2,048."""
    return max(1, (codebook_size - 1).bit_length())


def codec_fingerprint(codec: RealTimeJazzCodec, num_codebooks: int | None = None) -> str:
    """32 hexadecimal digits that tell the first `num_codebooks` codebooks (default: all) of one codec from others.

    Codecs that share those codebooks, and differ in their decoder or in further levels, share it too: either
    plays the codes of the other. Codebooks at 16 bits differ from the same at 32, if they lost digits.
    """
    quantizer = codec.quantizer
    digest = hashlib.sha256()
    if quantizer.prediction_levels:
        levels = min(num_codebooks or quantizer.num_codebooks, quantizer.prediction_levels)
        digest.update(f"prediction_levels {levels}".encode())
    for name, tensor in quantizer.state_dict().items():
        level = re.match(r"layers\.(\d+)\.(\w+)", name)
        if level and (
            int(level[1]) >= (num_codebooks or len(quantizer.layers)) or level[2] not in ("embed", "out_proj")
        ):
            continue  # what only chooses codes, or only trains, does not change what they mean
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()[:32]


@dataclass(frozen=True, eq=False)
class CodeFile:
    """What a `.rtj` file holds; the codes stay packed, and come out whole or in pieces.

    packed (bytes,): uint8, see the module. sampling_rate (Hz), hop_length and samples (of one channel, at that
    rate) are those of the recording as the codec heard it. fingerprint: see [`codec_fingerprint`]. model: the
    name of the model that wrote it, for people. notes: whatever else the writer had to say. deviations: channels of
    the codec's latents that say how far tones stand beside their notes.
    """

    packed: np.ndarray
    sampling_rate: int
    hop_length: int
    codebook_size: int
    num_codebooks: int
    frames: int
    samples: int
    fingerprint: str
    model: str = ""
    notes: Mapping[str, str] = field(default_factory=dict)
    deviations: int = 0

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples / self.sampling_rate

    @property
    def bitrate(self) -> float:
        """Bits a second of the codes as they are stored, without the header."""
        bits = self.num_codebooks * bits_per_code(self.codebook_size)
        return bits * self.sampling_rate / self.hop_length

    @property
    def codes(self) -> torch.Tensor:
        """All codes: (num_codebooks, frames), int64."""
        return self.unpack()

    def unpack(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Codes of the frames from `start` to before `stop`: (num_codebooks, stop - start), int64."""
        start, stop, _ = slice(start, stop).indices(self.frames)
        stop = max(start, stop)
        codes = np.empty((stop - start, self.num_codebooks), dtype=np.int64)
        size = bits_per_code(self.codebook_size)
        bits = self.num_codebooks * size  # a frame
        for first in range(start, stop, _PIECE_FRAMES):
            last = min(first + _PIECE_FRAMES, stop)
            piece = np.unpackbits(self.packed[first * bits // 8 : -(-last * bits // 8)])
            piece = piece[first * bits % 8 :][: (last - first) * bits]
            codes[first - start : last - start] = _join_bits(piece, size).reshape(-1, self.num_codebooks)
        return torch.from_numpy(np.ascontiguousarray(codes.T))

    def pieces(self, frames: int) -> Iterator[torch.Tensor]:
        """The codes in pieces of `frames` frames, the last one shorter: each (num_codebooks, frames), int64."""
        for start in range(0, self.frames, frames):
            yield self.unpack(start, start + frames)

    def check_codec(self, codec: RealTimeJazzCodec, any_codebooks: bool = False) -> None:
        """Refuse a codec that cannot play these codes.

        Args:
            any_codebooks (`bool`): the codebooks may be others of the same sizes, such as those of the same codec at
                another precision. What plays may be noise.

        Raises:
            ValueError: other rate, hop or codebook size, too few levels, or other codebooks.
        """
        config = codec.config
        for name in ("sampling_rate", "hop_length", "codebook_size"):
            if getattr(config, name) != getattr(self, name):
                raise ValueError(
                    f"the codes were made with {name}={getattr(self, name)}, this codec has "
                    f"{getattr(config, name)}; decode with the model that made them{self._by_model()}."
                )
        if config.num_deviations != self.deviations:
            raise ValueError(
                f"the codes were made with {self.deviations} channels of deviations, this codec has "
                f"{config.num_deviations}; decode with the model that made them{self._by_model()}."
            )
        if self.num_codebooks > config.total_codebooks:
            raise ValueError(
                f"the codes have {self.num_codebooks} levels, this codec has {config.total_codebooks}; decode with "
                f"the model that made them{self._by_model()}."
            )
        if not any_codebooks and codec_fingerprint(codec, self.num_codebooks) != self.fingerprint:
            raise ValueError(
                f"the codes belong to other codebooks than this codec's; decode with the model that made them"
                f"{self._by_model()}."
            )

    def _by_model(self) -> str:
        if self.model in BUNDLED_MODELS:  # whose codec an earlier version of the package may have had otherwise
            return f" ({self.model!r}, as the version of the package had it that wrote the file)"
        return f" ({self.model!r})" if self.model else ""


def write_codes(
    path: str | os.PathLike,
    codes: torch.Tensor | np.ndarray,
    codec: RealTimeJazzCodec,
    samples: int | None = None,
    model: str = "",
    notes: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write codes of `codec` to a `.rtj` file, whole or not at all; the path written.

    Args:
        codes (of shape `(levels, frames)`): whole numbers from 0 to `codebook_size - 1`.
        samples (`int`, *optional*): of one channel of the recording, to be given back exactly. Default: all that
            the frames hold.
        model (`str`): name of the codec's model, to be told where another is tried.
        notes: further names and texts to keep in the metadata, such as a prompt.

    Raises:
        ValueError: another suffix, shape or type, codes out of range, more levels than the codec has, `samples`
            that do not fit the frames, or notes that are not texts.
        FileExistsError, FileNotFoundError, IsADirectoryError, PermissionError: see `check_output_path`.
    """
    path = check_output_path(path, (CODE_SUFFIX,), overwrite)
    config = codec.config
    codes = codes.detach().cpu().numpy() if torch.is_tensor(codes) else np.asarray(codes)
    if codes.ndim != 2 or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(
            f"codes must be whole numbers of shape (levels, frames), got {codes.dtype} {codes.shape}."
        )
    levels, frames = codes.shape
    if not 1 <= levels <= config.total_codebooks:
        raise ValueError(f"codes have {levels} levels; this codec has 1 to {config.total_codebooks}.")
    if frames == 0:
        raise ValueError("there are no codes to write: 0 frames.")
    if codes.min() < 0 or codes.max() >= config.codebook_size:
        raise ValueError(
            f"codes must be from 0 to {config.codebook_size - 1}, got {codes.min()} to {codes.max()}."
        )
    bits = bits_per_code(config.codebook_size)
    packed = np.concatenate(
        [
            np.packbits(_split_bits(codes[:, start : start + _PIECE_FRAMES].T, bits))
            for start in range(0, frames, _PIECE_FRAMES)
        ]
    )
    header = {
        "sampling_rate": config.sampling_rate,
        "hop_length": config.hop_length,
        "codebook_size": config.codebook_size,
        "num_codebooks": levels,
        "frames": frames,
        "samples": frames * config.hop_length if samples is None else operator.index(samples),
    }
    _check_numbers(header)
    notes = dict(notes or {})
    if config.num_deviations:
        header["deviations"] = config.num_deviations
    metadata = {
        "format": CODE_FORMAT,
        "format_version": str(MOVING_VERSION if config.num_deviations else CODE_VERSION),
        **{name: str(value) for name, value in header.items()},
        "fingerprint": codec_fingerprint(codec, levels),
        "crc32": f"{zlib.crc32(packed):08x}",
        "model": str(model),
    }
    if wrong := [key for key, text in notes.items() if not isinstance(text, str) or key in metadata]:
        raise ValueError(f"notes must be texts under names of their own; {wrong[0]!r} is not.")
    with whole_or_not_at_all(path) as partial:
        partial.write_bytes(save({"codes": packed}, metadata={**metadata, **notes}))
    return path


def read_codes(path: str | os.PathLike) -> CodeFile:
    """Read a `.rtj` file, and check all of it.

    Raises:
        ValueError: naming the file: not a code file, cut short, of another version, metadata that are missing or no
            numbers, sizes that do not fit together, codes out of range.
        FileNotFoundError, IsADirectoryError: there is no such file.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder; give one {CODE_SUFFIX} file.")
    if not path.exists():
        raise FileNotFoundError(f"there is no code file '{path}'.")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            if metadata.get("format") != CODE_FORMAT:
                raise ValueError("it is another kind of safetensors file")
            if metadata.get("format_version") not in (str(CODE_VERSION), str(MOVING_VERSION)):
                raise ValueError(
                    f"it has format version {metadata.get('format_version')!r}, this version of the package reads "
                    f"{CODE_VERSION} and {MOVING_VERSION}; update rtjazz-hf"
                )
            if names != ["codes"]:
                raise ValueError(f"it holds {names}, not 'codes' alone")
            packed = file.get_tensor("codes")
        return _check_file(packed, metadata)
    except SafetensorError as error:
        raise ValueError(
            f"'{path}' is not a code file ({CODE_SUFFIX}), or is cut short ({error})."
        ) from error
    except ValueError as error:
        raise ValueError(f"'{path}' cannot be read as codes: {str(error).rstrip('.')}.") from error


def _check_file(packed: np.ndarray, metadata: dict[str, str]) -> CodeFile:
    header = {}
    moving = ("deviations",) if metadata["format_version"] == str(MOVING_VERSION) else ()
    for name in (*_NUMBERS, *moving):
        if not re.fullmatch(r"[1-9][0-9]{0,14}", metadata.get(name, "")):
            raise ValueError(f"its {name} is {metadata.get(name)!r}, not a whole number of at least 1")
        header[name] = int(metadata[name])
    _check_numbers(header)
    fingerprint = metadata.get("fingerprint", "")
    if not re.fullmatch(r"[0-9a-f]{32}", fingerprint):
        raise ValueError(f"its fingerprint is {fingerprint!r}, not 32 hexadecimal digits")
    bits = header["num_codebooks"] * header["frames"] * bits_per_code(header["codebook_size"])
    if packed.dtype != np.uint8 or packed.shape != (-(-bits // 8),):
        raise ValueError(
            f"its codes are {packed.dtype} {packed.shape}; {header['frames']} frames of {header['num_codebooks']} "
            f"levels need uint8 {(-(-bits // 8),)}"
        )
    if packed[-1] & ((1 << -bits % 8) - 1):
        raise ValueError("the bits after its last code are not zero")
    if metadata.get("crc32") != f"{zlib.crc32(packed):08x}":
        raise ValueError("its checksum is wrong: the codes were damaged; fetch or make the file again")
    known = {*_NUMBERS, *moving, "format", "format_version", "fingerprint", "crc32", "model"}
    notes = {name: text for name, text in metadata.items() if name not in known}
    file = CodeFile(packed, fingerprint=fingerprint, model=metadata.get("model", ""), notes=notes, **header)
    if file.codebook_size != 1 << bits_per_code(file.codebook_size):  # else no bits can be out of range
        for piece in file.pieces(_PIECE_FRAMES):
            if int(piece.max()) >= file.codebook_size:
                raise ValueError(
                    f"it holds the code {int(piece.max())}; with codebook_size={file.codebook_size} codes are from "
                    f"0 to {file.codebook_size - 1}"
                )
    return file


def _check_numbers(header: dict[str, int]) -> None:
    levels, size = header["num_codebooks"], header["codebook_size"]
    if levels > MAX_CODEBOOKS:
        raise ValueError(f"num_codebooks={levels} is not in 1..{MAX_CODEBOOKS}")
    if not 2 <= size <= 1 << _MAX_BITS:
        raise ValueError(f"codebook_size={size} is not in 2..{1 << _MAX_BITS}")
    frames, hop, samples = header["frames"], header["hop_length"], header["samples"]
    if not (frames - 1) * hop < samples <= frames * hop:
        raise ValueError(
            f"samples={samples} do not fit {frames} frames of {hop}: {(frames - 1) * hop + 1} to {frames * hop} would"
        )


def _split_bits(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes (frames, levels) -> their bits one after the other, the highest of each first."""
    pairs = np.ascontiguousarray(codes).astype(">u2").reshape(-1, 1).view(np.uint8)  # (codes, 2 bytes)
    return np.unpackbits(pairs, axis=1)[:, _MAX_BITS - bits :].ravel()


def _join_bits(bits: np.ndarray, size: int) -> np.ndarray:
    """The inverse: bits of codes of `size` bits each -> (codes,)."""
    bits = np.pad(bits.reshape(-1, size), ((0, 0), (_MAX_BITS - size, 0)))
    return np.packbits(bits, axis=1).view(">u2")[:, 0]


__all__ = ["CODE_SUFFIX", "CodeFile", "bits_per_code", "codec_fingerprint", "read_codes", "write_codes"]
