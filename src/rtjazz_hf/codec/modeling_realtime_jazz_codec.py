"""The codec: 48 kHz stereo audio <-> normalised latents at 75 Hz <-> residual codes, whole or streamed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput

from rtjazz_hf.audio import LOUDEST
from rtjazz_hf.runtime.aligned_weights import AlignedWeightsMixin
from rtjazz_hf.runtime.graphs import make_engine
from rtjazz_hf.runtime.offload import follows_offload

from .configuration_realtime_jazz_codec import RealTimeJazzCodecConfig
from .engine_network import EngineNetwork
from .lapped import LappedDecoder, fit_components
from .lapped_encoder import LappedEncoder
from .quantizer import QuantizerOutput, ResidualVectorQuantizer
from .residual_block import ResidualBlock
from .seanet import SEANetDecoder, SEANetEncoder
from .streaming import StreamingState
from .vector_quantizer import VectorQuantizer


@dataclass
class CodecEncoderOutput(ModelOutput):
    """What `encode` gives.

    codes (batch, num_codebooks, frames), int64, or `None` where not asked for.
    latents (batch, latent_dim, frames), normalised, un-quantised.
    state: carries the stream on.
    """

    codes: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    state: StreamingState | None = None


@dataclass
class CodecDecoderOutput(ModelOutput):
    """What `decode` gives: audio (batch, 2, frames * hop_length), and the state that carries the stream on."""

    audio: torch.Tensor | None = None
    state: StreamingState | None = None


@dataclass
class CodecOutput(ModelOutput):
    """What `forward` (training) gives.

    audio (batch, 2, samples): the reconstruction. latents: un-quantised, before noise.
    quantizer: the quantiser's output, `None` where it was left out. latent_frames: frames per row.
    """

    audio: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    quantizer: QuantizerOutput | None = None


class RealTimeJazzCodec(AlignedWeightsMixin, PreTrainedModel):
    """Neural codec of 48 kHz stereo (see [`RealTimeJazzCodecConfig`] for the two backbones).

    Example:
        ```python
        enc = codec.encode(audio)                 # audio (batch, 2, samples) in [-1, 1]
        audio = codec.decode(codes=enc.codes).audio
        audio = codec.decode(latents=enc.latents).audio
        ```
    """

    bundled_part = "codec"
    always_float32 = True
    config_class = RealTimeJazzCodecConfig
    base_model_prefix = "codec"
    main_input_name = "audio"
    _no_split_modules = ["ResidualBlock"]

    def __init__(self, config: RealTimeJazzCodecConfig):
        super().__init__(config)
        if config.backbone == "lapped":
            self.encoder = LappedEncoder(config)
            self.decoder = LappedDecoder(config)
        else:
            common = dict(
                audio_channels=config.audio_channels,
                latent_dim=config.latent_dim,
                num_filters=config.seanet_filters,
                strides=config.seanet_strides,
                use_lstm=config.seanet_lstm,
                norm="weight_norm" if config.seanet_weight_norm else "none",
                audio_dilation=config.seanet_audio_dilation,
            )
            self.encoder = SEANetEncoder(**common)
            self.decoder = SEANetDecoder(**common)
        self.quantizer = ResidualVectorQuantizer(
            latent_dim=config.latent_dim,
            codebook_dim=config.codebook_dim,
            codebook_size=config.codebook_size,
            num_codebooks=config.total_codebooks,
            prediction_levels=config.prediction_levels,
            quantizer_dropout=0.25,
            unquantized_rate=0.5,
        )
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ResidualBlock):
            init.zeros_(module.contract.weight)
            init.zeros_(module.contract.bias)
        elif isinstance(module, LappedEncoder):
            init.zeros_(module.base_mean)
            init.zeros_(module.extra_mean)
            init.ones_(module.extra_scale)
            init.zeros_(module.project_out.weight)
            init.zeros_(module.project_out.bias)
        elif isinstance(module, LappedDecoder):
            init.zeros_(module.noise_offset)
            if module.config.phase == "free":
                init.zeros_(module.noise_shape)
                init.ones_(module.level_share)
                if module.config.level_memory:
                    init.zeros_(module.level_past)
            init.zeros_(module.project_out.weight)
            init.zeros_(module.project_out.bias)
        elif isinstance(module, VectorQuantizer | ResidualVectorQuantizer):
            module.reset_parameters()

    # --- what the model is -------------------------------------------------------------------------------------

    @property
    def frame_rate(self) -> float:
        return self.config.frame_rate

    def bitrate(self, num_codebooks: int | None = None) -> float:
        """Bits a second of the codes: levels x log2(entries) x frames a second."""
        levels = self._check_num_codebooks(num_codebooks)
        return levels * math.log2(self.config.codebook_size) * self.frame_rate

    @property
    def codebooks(self) -> torch.Tensor:
        """Vectors of the standard levels in normalised latent space: (num_codebooks, codebook_size, latent_dim).

        Without `config.prediction_levels`, `codes_to_latents` is the sum of the vectors chosen, plus
        `latents_offset`.
        """
        return self.quantizer.codebook_vectors()[0][: self.config.num_codebooks]

    @property
    def latents_offset(self) -> torch.Tensor:
        """(latent_dim,): see `codebooks`."""
        return self.quantizer.codebook_vectors()[1]

    # --- audio -> latents -> codes -----------------------------------------------------------------------------

    def init_encoder_state(self, batch_size: int = 1, low_delay: bool = False) -> StreamingState | None:
        """The start of a stream to encode.

        Args:
            low_delay (`bool`): frames come after `config.latency_samples` samples, without what a codec of
                `config.look_ahead` hears ahead of them; by default streams give what whole clips do.
        """
        seanet = self.config.backbone == "seanet"
        state = StreamingState() if seanet else self.encoder.init_state(batch_size, self.device, low_delay)
        return self._with_codes_state(state, None, batch_size)

    @torch.no_grad()
    @follows_offload
    def encode(
        self,
        audio: torch.Tensor,
        num_codebooks: int | None = None,
        state: StreamingState | None = None,
        flush: bool | None = None,
        return_codes: bool = True,
    ) -> CodecEncoderOutput:
        """Encode a clip, or the next piece of a stream.

        Args:
            audio (`torch.Tensor` of shape `(batch, 2, samples)`): 48 kHz, in [-1, 1].
            num_codebooks (`int`, *optional*): levels of the codes; `config.num_codebooks` by default.
            state (`StreamingState`, *optional*): of the stream (`init_encoder_state` starts one). Frames come as
                soon as they are complete; the first needs `config.latency_samples` samples, and
                `config.frames_ahead` frames more unless the stream was started with `low_delay`.
            flush (`bool`, *optional*): pad the end with silence and encode what is left. Default: only without
                a `state`, so that a clip gives `ceil(samples / hop_length)` frames.

        Raises:
            ValueError: for another shape or type, no samples, NaN or infinite samples, samples far above 1, too many
                levels, a state of other streams.
        """
        audio = self._check_audio(audio, state is not None)
        self._check_streams(audio, state)
        levels = self._check_num_codebooks(num_codebooks)
        flush = state is None if flush is None else flush
        state, codes_state = self._split_state(state)
        latents, state = self._encode_latents(audio, state, flush)
        codes = None
        if return_codes:
            codes, codes_state = self.latents_to_codes(latents, levels, codes_state, return_state=True)
        state = self._with_codes_state(state, codes_state, audio.shape[0])
        return CodecEncoderOutput(codes=codes, latents=latents, state=state)

    def _encode_latents(self, audio: torch.Tensor, state: StreamingState | None, flush: bool):
        if self.config.backbone == "lapped":
            latents, state = self.encoder(audio, state, flush)
        else:
            latents, state = self._encode_hops(audio.to(self.dtype), state, flush)
        return self._normalise(latents), state

    def _encode_hops(self, audio: torch.Tensor, state: StreamingState | None, flush: bool):
        """SEANet: whole hops only; what is left of a piece waits in the state for the next one, or its end."""
        hop = self.config.hop_length
        entries = dict(state.entries) if state else {}
        if "pending" in entries:
            audio = torch.cat([entries.pop("pending"), audio], dim=-1)
        if flush:
            audio = nn.functional.pad(audio, (0, -audio.shape[-1] % hop))
        whole = audio.shape[-1] // hop * hop
        latents = audio.new_zeros(audio.shape[0], self.config.latent_dim, 0)
        if whole:
            latents, new = self.encoder(audio[..., :whole], StreamingState(entries) if entries else None)
            entries = new.entries
        return latents, StreamingState({**entries, "pending": audio[..., whole:].clone()})

    @follows_offload
    def latents_to_codes(
        self,
        latents: torch.Tensor,
        num_codebooks: int | None = None,
        state: torch.Tensor | None = None,
        return_state: bool = False,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor | None]:
        """latents (batch, latent_dim, frames) -> codes (batch, num_codebooks, frames), int64.

        As in `decode`, latents may lack the channels of `config.deviation_registers`. With
        `config.prediction_levels` codes depend on the frames before: `latents` start a stream, or go on where
        the call that gave `state` ended. `return_state` gives `(codes, state)`.
        """
        levels = self._check_num_codebooks(num_codebooks)
        # A beam of 4 gains 0.3 dB over the nearest entry level by level, at a hundredth of real time.
        return self.quantizer.encode(
            self.complete(latents).float(), levels, num_beams=4, state=state, return_state=return_state
        )

    # --- codes -> latents -> audio -----------------------------------------------------------------------------

    @follows_offload
    def codes_to_latents(
        self, codes: torch.Tensor, state: torch.Tensor | None = None, return_state: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor | None]:
        """codes (batch, 1..num_codebooks levels, frames) -> normalised latents (batch, latent_dim, frames).

        `state` and `return_state` as in `latents_to_codes`.
        """
        latents, state = self.quantizer.decode(codes, state, return_state=True)
        latents = latents.to(self.dtype)
        return (latents, state) if return_state else latents

    @torch.no_grad()
    @follows_offload
    def decode(
        self,
        codes: torch.Tensor | None = None,
        latents: torch.Tensor | None = None,
        state: StreamingState | None = None,
    ) -> CodecDecoderOutput:
        """Decode a clip, or the next piece of a stream; any split gives the same audio.

        Args:
            codes (`torch.Tensor` of shape `(batch, levels, frames)`) or latents (of shape
                `(batch, latent_dim, frames)`, normalised): exactly one of them. Latents may lack the channels of
                `config.deviation_registers`, which are the last: then every tone stands on its note.
            state (`StreamingState`, *optional*): `None` starts a stream at frame 0. Latents may follow codes in a
                stream; the codes after them go on from those before.

        Raises:
            ValueError: for another shape or type, codes out of range, a state of other streams.
        """
        if (codes is None) == (latents is None):
            raise ValueError("decode needs exactly one of codes= and latents=.")
        given = latents if codes is None else codes
        if not torch.is_tensor(given):
            raise ValueError(f"codes and latents must be tensors, got {type(given).__name__}.")
        if given.ndim == 3:
            self._check_streams(given, state)
        state, codes_state = self._split_state(state)
        if codes is not None:
            latents, codes_state = self.codes_to_latents(codes, codes_state, return_state=True)
        audio, state = self._decode_latents(self.complete(latents), state)
        state = self._with_codes_state(state, codes_state, latents.shape[0])
        return CodecDecoderOutput(audio=audio, state=state)

    def complete(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents (batch, latent_dim or energy_dim, frames) -> (batch, latent_dim, frames): where those that say how
        far tones stand beside their notes are lacking, every tone stands on its note."""
        sizes = (self.config.latent_dim, self.config.energy_dim)
        if latents.ndim != 3 or latents.shape[1] not in sizes:
            allowed = " or ".join(f"(batch, {size}, frames)" for size in dict.fromkeys(sizes))
            raise ValueError(f"latents must be {allowed}, got {tuple(latents.shape)}.")
        missing = self.config.latent_dim - latents.shape[1]
        return nn.functional.pad(latents, (0, 0, 0, missing)) if missing else latents

    def _decode_latents(self, latents: torch.Tensor, state: StreamingState | None):
        audio, state = self.decoder(self._denormalise(latents.to(self.dtype)), state)
        return audio.float(), state

    def use_engine(self, engine: str = "auto", precision: str = "float32") -> str:
        """Choose what computes the decoder's network; the tones, noise and levels that it controls stay with torch.

        Another engine than torch gets a graph of the decoder as it is now, and plays as long as its weights do not
        change; torch gets a copy of the largest weights for as long, which a CPU multiplies faster. Arguments, result
        and errors are those of `RealTimeJazzFlowTransformer.use_engine`, but "auto" leaves float32 to torch, which
        takes no longer, and no decoder is in 8 bits: "int8" is "auto" here.
        """
        lapped = isinstance(self.decoder, LappedDecoder)
        if lapped:
            self.decoder.unpack_weights()
        made = make_engine(EngineNetwork, self, engine, "auto" if precision == "int8" else precision)
        if lapped:
            self.decoder.engine = made
            if made is None:
                self.decoder.pack_weights()
        return "torch" if made is None else made.engine

    # --- training ----------------------------------------------------------------------------------------------

    def forward(
        self,
        audio: torch.Tensor,
        levels: torch.Tensor | None = None,
        latent_noise: float = 0.0,
        start_frame: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> CodecOutput:
        """Round trip with gradients: audio (batch, 2, samples) -> reconstruction of the same length.

        Args:
            levels (`torch.Tensor` of shape `(batch,)`, *optional*): how many levels of codes each row goes through,
                0 for none; `None` leaves the quantiser out. In training mode the quantiser learns on the way.
            latent_noise (`float`): standard deviation of noise added to the normalised latents, so that the
                decoder forgives what a flow gets slightly wrong.
            start_frame (`torch.Tensor` of shape `(batch,)`, *optional*): where in its stream each row begins;
                random ones keep the decoder from learning one piece of noise by heart.
        """
        samples = audio.shape[-1]
        latents, _ = self._encode_latents(audio, None, flush=True)
        quantized, given = None, latents
        if levels is not None:
            quantized = self.quantizer(latents.float(), levels=levels, generator=generator, mid_stream=True)
            given = quantized.quantized.to(latents)
        if latent_noise:
            given = given + latent_noise * torch.randn(given.shape, generator=generator).to(given)
        state = None
        if self.config.backbone == "lapped" and start_frame is not None:
            state = self.decoder.init_state(audio.shape[0], audio.device)
            state["frame"] = start_frame
        decoded, _ = self.decoder(self._denormalise(given), state)
        return CodecOutput(audio=decoded[..., :samples], latents=latents, quantizer=quantized)

    @torch.no_grad()
    def fit_start(self, clips: list[torch.Tensor]) -> float:
        """Start the lapped backbone from principal components of `clips` (each (batch, 2, samples)).

        Sets the latents' statistics too. Returns the share of feature variance that the latents keep.
        """
        kept = fit_components(self.encoder, self.decoder, clips) if self.config.backbone == "lapped" else 0.0
        self.fit_statistics(clips)
        return kept

    @torch.no_grad()
    def fit_statistics(self, clips: list[torch.Tensor]) -> None:
        """Set `config.latents_mean` and `config.latents_std` to those of the latents of `clips`.

        The mean of deviations is zero whatever the clips hold: normalised latents of zero leave every tone on its
        note.
        """
        self.config.latents_mean = self.config.latents_std = None
        latents = [self._encode_latents(clip, None, True)[0].transpose(1, 2).flatten(0, 1) for clip in clips]
        latents = torch.cat(latents).float()
        mean, moved = latents.mean(0), self.config.energy_dim
        mean[moved:] = 0
        self.config.latents_mean = tuple(mean.tolist())
        self.config.latents_std = tuple(latents.std(0).clamp(min=1e-4).tolist())

    @torch.no_grad()
    def fit_codes(
        self, clips: list[torch.Tensor], generator: torch.Generator | None = None, **kwargs
    ) -> list[float]:
        """Fit the quantiser to the latents of `clips` (each (batch, 2, samples)), which the encoder keeps giving.

        A channel weighs what it weighs in the sound: its variance before normalisation. Streams are predicted to
        start from silence. `kwargs` go to `ResidualVectorQuantizer.fit`, which says what is returned.
        """
        sequences = [row.T for clip in clips for row in self.encode(clip, return_codes=False).latents.float()]
        std = self.config.latents_std
        weights = None if std is None else torch.tensor(std, device=self.device) ** 2
        silence = torch.zeros(1, 2, self.config.hop_length, device=self.device)
        start = self.encode(silence, return_codes=False).latents[0, :, 0].float()
        return self.quantizer.fit(
            sequences, **{"weights": weights, "generator": generator, "start": start, **kwargs}
        )

    # --- helpers -----------------------------------------------------------------------------------------------

    def _split_state(self, state: StreamingState | None) -> tuple[StreamingState | None, torch.Tensor | None]:
        """The part of encoder or decoder, and that of the codes."""
        if state is None:
            return None, None
        entries = dict(state.entries)
        codes = entries.pop("codes", None)
        return StreamingState(entries), codes

    def _with_codes_state(
        self, state: StreamingState, codes: torch.Tensor | None, batch_size: int
    ) -> StreamingState:
        """`state` with that of the codes, where there is one: of the start, if no codes have come by yet."""
        if not self.config.prediction_levels:
            return state
        codes = self.quantizer.start_state(batch_size) if codes is None else codes
        return StreamingState({**state.entries, "codes": codes})

    def _normalise(self, latents: torch.Tensor) -> torch.Tensor:
        if self.config.latents_std is None:
            return latents
        latents = latents - _statistic(self.config.latents_mean, latents.device, latents.dtype)
        return latents / _statistic(self.config.latents_std, latents.device, latents.dtype)

    def _denormalise(self, latents: torch.Tensor) -> torch.Tensor:
        if self.config.latents_std is None:
            return latents
        latents = latents * _statistic(self.config.latents_std, latents.device, latents.dtype)
        return latents + _statistic(self.config.latents_mean, latents.device, latents.dtype)

    def _check_num_codebooks(self, num_codebooks: int | None) -> int:
        most = self.config.total_codebooks
        if num_codebooks is None:
            return self.config.num_codebooks
        if num_codebooks not in range(1, most + 1):
            raise ValueError(
                f"num_codebooks={num_codebooks!r} is not in 1..{most}, the levels of this codec."
            )
        return int(num_codebooks)

    def _check_streams(self, rows: torch.Tensor, state: StreamingState | None) -> None:
        """One row at least, and as many as the state has streams."""
        if len(rows) == 0:
            raise ValueError("the batch is empty; give one clip at least.")
        if state is None:
            return
        if not isinstance(state, StreamingState):
            raise ValueError(f"state must be a StreamingState of this codec, got {type(state).__name__}.")
        for tensor in state.tensors():
            if len(tensor) != len(rows):
                raise ValueError(
                    f"state is of {len(tensor)} streams, the batch has {len(rows)}; StreamingState.select and cat take "
                    "streams apart and join them."
                )

    def _check_audio(self, audio: torch.Tensor, streaming: bool) -> torch.Tensor:
        if not torch.is_tensor(audio) or not audio.is_floating_point():
            kind = audio.dtype if torch.is_tensor(audio) else type(audio).__name__
            raise ValueError(
                f"audio must be a floating point tensor in [-1, 1], got {kind}; scale PCM first."
            )
        if audio.ndim != 3 or audio.shape[1] != 2:
            raise ValueError(
                f"audio must be (batch, 2, samples) at {self.config.sampling_rate} Hz, got {tuple(audio.shape)};"
                " repeat a mono signal on both channels."
            )
        if audio.shape[-1] == 0 and not streaming:
            raise ValueError("audio has no samples.")
        peak = audio.detach().abs().max().item() if audio.numel() else 0.0  # NaN where there is one
        if not math.isfinite(peak):
            raise ValueError("audio holds NaN or infinite samples; clean it first.")
        if peak > LOUDEST:
            raise ValueError(
                f"audio must be in [-1, 1], got samples as large as {peak:.6g}; scale PCM by its full scale first."
            )
        return audio.to(self.device)


@lru_cache(maxsize=16)
def _statistic(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """(latent_dim, 1)"""
    with torch.inference_mode(False):  # it outlives the call that first asks for it; training wants it too
        return torch.tensor(values, device=device, dtype=dtype)[:, None]


__all__ = ["CodecDecoderOutput", "CodecEncoderOutput", "CodecOutput", "RealTimeJazzCodec"]
