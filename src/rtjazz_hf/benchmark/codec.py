"""How fast a codec is: whole clips and streams, beside EnCodec on the same machine in the same minutes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rtjazz_hf.audio import SAMPLE_RATE

from .hardware import load_average
from .timing import percentiles_ms, timed, torch_threads

if TYPE_CHECKING:
    from transformers import EncodecConfig

    from rtjazz_hf.codec import RealTimeJazzCodec

PIECE_FRAMES = (1, 8)
ENCODEC_BANDWIDTH = 3.0  # kbit/s: its setting nearest to ours
_SEGMENT_SECONDS = 1.0  # streams take turns after so much audio


def encodec_48khz_config() -> EncodecConfig:
    """The configuration of `facebook/encodec_48khz` (Defossez et al., 2022), built here: nothing is downloaded."""
    from transformers import EncodecConfig

    return EncodecConfig(
        sampling_rate=SAMPLE_RATE,
        audio_channels=2,
        normalize=True,
        chunk_length_s=1.0,
        overlap=0.01,
        target_bandwidths=[3.0, 6.0, 12.0, 24.0],
        upsampling_ratios=[8, 5, 4, 2],
        norm_type="time_group_norm",
        use_causal_conv=False,
    )


def benchmark_codec(
    codec: RealTimeJazzCodec,
    seconds: float = 10.0,
    *,
    threads: int | None = None,
    repeats: int = 5,
    num_codebooks: int | None = None,
    piece_frames: tuple[int, ...] = PIECE_FRAMES,
    encodec: EncodecConfig | bool = True,
    audio: np.ndarray | torch.Tensor | None = None,
) -> dict[str, Any]:
    """Time encoding to codes and decoding from codes: whole, streamed piece by piece, and EnCodec whole.

    Every contender runs once in each of `repeats` rounds, the streams taking turns second by second, so that a
    disturbance of the machine hits all alike. Real-time factors are wall time over audio time, below 1 keeping up:
    the median over the rounds, and the least. Latencies are of single calls, pooled over all rounds.

    EnCodec has random weights, which cost the same as trained ones, encodes at 3 kbit/s, and works in chunks of a
    second without a stream, so only its whole clips can be laid beside ours.

    Args:
        seconds: of audio a round. threads: of torch while it runs; as they are by default.
        num_codebooks: levels of the codes; all by default. piece_frames: frames a streamed piece has.
        encodec: False leaves it out; a configuration of one's own takes the place of `encodec_48khz_config`.
        audio: `(2, samples)` at 48 kHz to repeat or cut to length; noise by default (time does not depend on it).

    Returns:
        "whole", "stream" and "encodec" with the figures of each direction; "split_difference", the largest
        difference between streamed and whole results (samples, and normalised latents); "settings".

    Raises:
        ValueError: for lengths, rounds, threads or pieces below one.
    """
    frames = round(seconds * codec.frame_rate)
    counts = {"repeats": repeats, "frames": frames, "threads": 1 if threads is None else threads}
    wrong = [f"{name}={value}" for name, value in counts.items() if value < 1]
    wrong += [f"piece_frames={piece_frames}"] if not piece_frames or min(piece_frames) < 1 else []
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)}: give whole numbers of at least 1 (seconds: one frame at least)."
        )
    clip = _clip(audio, frames * codec.config.hop_length).to(codec.device)
    load = load_average()
    with torch_threads(threads), torch.inference_mode():
        runs = _Rounds(codec, clip, num_codebooks, piece_frames)
        peer = None if encodec is False else _EncodecPeer(encodec, clip)
        for index in range(repeats + 1):
            if index == 1:  # the first round warms up
                runs.forget()
            runs.whole()
            if peer is not None:
                if index == 1:
                    peer.forget()
                peer.whole()
            runs.streams()
        result: dict[str, Any] = {
            "whole": {name: _factor(times, runs.seconds) for name, times in runs.whole_times.items()},
            "stream": {
                str(size): {name: _latency(pieces, size, codec) for name, pieces in directions.items()}
                for size, directions in runs.piece_times.items()
            },
            "split_difference": runs.differences,
        }
        if peer is not None:
            result["encodec"] = {name: _factor(times, peer.seconds) for name, times in peer.times.items()}
            result["encodec"]["parameters"] = peer.parameters
            for name, figures in result["whole"].items():
                figures["times_faster_than_encodec"] = (
                    result["encodec"][name]["real_time_factor"] / figures["real_time_factor"]
                )
        result["settings"] = {
            "seconds": runs.seconds,
            "repeats": repeats,
            "num_codebooks": num_codebooks or codec.config.num_codebooks,
            "threads": torch.get_num_threads(),
            "device": str(codec.device),
            "dtype": str(codec.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "parameters": sum(parameter.numel() for parameter in codec.parameters()),
            # More than a little before the start means that others used the machine: ratios hold, seconds do not.
            "load_average": load,
            "cores": os.cpu_count(),
        }
    return result


class _Rounds:
    """One codec's rounds: what was timed, and whether streams gave what whole clips did."""

    def __init__(
        self, codec: RealTimeJazzCodec, clip: torch.Tensor, levels: int | None, sizes: tuple[int, ...]
    ):
        self.codec, self.clip, self.levels, self.sizes = codec, clip, levels, sizes
        self.seconds = clip.shape[-1] / codec.config.sampling_rate
        self.encoded = codec.encode(clip, num_codebooks=levels)
        self.audio = codec.decode(codes=self.encoded.codes).audio
        self.differences: dict[str, dict[str, float]] = {}
        self.forget()

    def forget(self) -> None:
        self.whole_times: dict[str, list[float]] = {"encode": [], "decode": []}
        self.piece_times: dict[int, dict[str, list[float]]] = {
            size: {"encode": [], "decode": []} for size in self.sizes
        }

    def whole(self) -> None:
        codec, device = self.codec, self.codec.device
        calls: dict[str, Callable[[], Any]] = {
            "encode": lambda: codec.encode(self.clip, num_codebooks=self.levels),
            "decode": lambda: codec.decode(codes=self.encoded.codes),
        }
        for name, call in calls.items():
            self.whole_times[name].append(timed(call, device)[0])

    def streams(self) -> None:
        """All streams once through the clip, in turns of a second."""
        outputs: dict[tuple[int, str], list[torch.Tensor]] = {}
        waiting = []
        for size in self.sizes:
            for name, stream in (("encode", self._encode_stream), ("decode", self._decode_stream)):
                outputs[size, name] = []
                waiting.append(((size, name), stream(size)))
        while waiting:
            going = []
            for (size, name), stream in waiting:
                for _ in range(max(1, round(_SEGMENT_SECONDS * self.codec.frame_rate / size))):
                    step = next(stream, None)
                    if step is None:
                        break
                    seconds, output, timed = step
                    outputs[size, name].append(output)
                    if timed:
                        self.piece_times[size][name].append(seconds)
                else:
                    going.append(((size, name), stream))
            waiting = going
        for (size, name), parts in outputs.items():
            whole = self.encoded.latents if name == "encode" else self.audio
            difference = (torch.cat(parts, dim=-1) - whole).abs().max().item()
            self.differences.setdefault(str(size), {})[name] = difference

    def _encode_stream(self, size: int) -> Iterator[tuple[float, torch.Tensor, bool]]:
        codec, step = self.codec, size * self.codec.config.hop_length
        state = codec.init_encoder_state()
        for start in range(0, self.clip.shape[-1], step):
            piece = self.clip[..., start : start + step]
            last = start + step >= self.clip.shape[-1]
            seconds, encoded = timed(
                lambda piece=piece, state=state, last=last: codec.encode(
                    piece, num_codebooks=self.levels, state=state, flush=last
                ),
                codec.device,
            )
            state = encoded.state
            # The last piece is shorter or longer than the others: it ends the stream and is not counted.
            yield seconds, encoded.latents, not last

    def _decode_stream(self, size: int) -> Iterator[tuple[float, torch.Tensor, bool]]:
        codec, state = self.codec, None
        codes = self.encoded.codes
        for start in range(0, codes.shape[-1], size):
            piece = codes[..., start : start + size]
            seconds, decoded = timed(
                lambda piece=piece, state=state: codec.decode(codes=piece, state=state), codec.device
            )
            state = decoded.state
            yield seconds, decoded.audio, piece.shape[-1] == size


class _EncodecPeer:
    """transformers' EnCodec with random weights on the same audio, cut to whole chunks."""

    def __init__(self, config: EncodecConfig | bool, clip: torch.Tensor):
        from transformers import EncodecModel

        config = encodec_48khz_config() if config is True else config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = EncodecModel(config).eval().to(clip.device)
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        if (
            config.chunk_length is not None
        ):  # a remainder would be a chunk of its own, shorter than the others
            overlap = config.chunk_length - config.chunk_stride
            chunks = max(1, (clip.shape[-1] - overlap) // config.chunk_stride)
            clip = _clip(clip[0], chunks * config.chunk_stride + overlap)
        self.clip = clip
        self.bandwidth = min(config.target_bandwidths, key=lambda rate: abs(rate - ENCODEC_BANDWIDTH))
        self.seconds = clip.shape[-1] / config.sampling_rate
        self.codes = self.model.encode(clip, bandwidth=self.bandwidth)
        self.forget()

    def forget(self) -> None:
        self.times: dict[str, list[float]] = {"encode": [], "decode": []}

    def whole(self) -> None:
        calls: dict[str, Callable[[], Any]] = {
            "encode": lambda: self.model.encode(self.clip, bandwidth=self.bandwidth),
            "decode": lambda: self.model.decode(
                self.codes.audio_codes,
                self.codes.audio_scales,
                last_frame_pad_length=self.codes.last_frame_pad_length,
            ),
        }
        for name, call in calls.items():
            self.times[name].append(timed(call, self.clip.device)[0])


def _clip(audio: np.ndarray | torch.Tensor | None, samples: int) -> torch.Tensor:
    """(1, 2, samples): the audio repeated and cut, or noise."""
    if audio is None:
        generator = torch.Generator().manual_seed(0)
        return 0.1 * torch.randn(1, 2, samples, generator=generator)
    audio = torch.as_tensor(audio, dtype=torch.float32)
    if audio.ndim != 2 or audio.shape[0] != 2 or audio.shape[1] == 0:
        raise ValueError(
            f"audio has shape {tuple(audio.shape)}; allowed is (2, samples) with one sample or more."
        )
    return audio.repeat(1, -(-samples // audio.shape[1]))[None, :, :samples].contiguous()


def _factor(times: list[float], seconds: float) -> dict[str, float]:
    return {
        "real_time_factor": float(np.median(times)) / seconds,
        "least_real_time_factor": min(times) / seconds,
    }


def _latency(times: list[float], frames: int, codec: RealTimeJazzCodec) -> dict[str, float]:
    """Milliseconds a piece, and how long a piece plays."""
    if not times:  # a clip of one piece only
        return {"pieces": 0}
    duration = 1000 * frames / codec.frame_rate
    return {
        "pieces": len(times),
        **percentiles_ms(times),
        "duration_ms": duration,
        "real_time_factor": 1000 * float(np.mean(times)) / duration,
    }
