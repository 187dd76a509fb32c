"""Configuration of the codec."""

from __future__ import annotations

import math
from typing import ClassVar

from rtjazz_hf.runtime.bundled import BundledMixin
from rtjazz_hf.runtime.configs import PlainConfig

BACKBONES = ("lapped", "seanet")
PHASES = ("free", "kept")


class RealTimeJazzCodecConfig(BundledMixin, PlainConfig):
    """Configuration of a [`RealTimeJazzCodec`]: 48 kHz stereo <-> latents (75 Hz) <-> residual codes.

    Args:
        latent_dim (`int`): channels of the latents, those of `deviation_registers` included, which come last.
        deviation_registers (`tuple` of `int`): of the free lapped backbone. The lowest MIDI note of each register
            in which tones move: 12 channels each say by how much what sounds of a pitch class stands beside its
            note. Tones below the first register stand on their notes; where it is empty (the first two versions of
            the codec) all do.
        codebook_size (`int`), num_codebooks (`int`): entries of a level of the residual quantiser, and levels that
            are used unless others are asked for; 4 levels of 2,048 entries are 44 bits a frame, 3.3 kbit/s.
        max_codebooks (`int` or `None`): levels that there are, up to 32; `None`: `num_codebooks`.
        codebook_dim (`int`, `tuple` of one per level, or `None`): code dimension of a level; `None` quantises the
            latents as they are.
        prediction_levels (`int`): how many levels, from the first, code what a frame has beyond a prediction from
            the frame before (see `ResidualVectorQuantizer`); 0: each frame is coded by itself.
        backbone (`str`): `"lapped"` starts from a lapped transform; `"seanet"` is EnCodec's convolutions.
        phase (`str`): of the lapped backbone. `"free"`: latents hold the energy of every semitone and band,
            and the decoder keeps the phases (a bank of running tones and a noise table whose position is in the
            state). `"kept"`: latents are principal components of signed MDCT coefficients.
        overlap (`int`): samples that neighbouring frames share; see `latency_samples`.
        analysis_length (`int`): samples of past that the encoder's longest window sees.
        look_ahead (`tuple` of two `int`): how many frames later the windows end in which the tones below C4, and those
            from C4 to B5, are measured of a frame. Long windows smear: without it bass lines lag by 60 ms in copies.
            An encoder that is to follow as closely as it can is told `low_delay`, and measures nothing ahead.
        lowest_note, num_notes (`int`): MIDI number of the lowest note of the bank and how many follow it.
        tones_per_note (`int`): tones of the bank around each note.
        num_bands, num_pan_bands (`int`): bands, equally spaced in ERB, of the noise and of the pan.
        num_fine_bands (`int`): mel bands of the middle signal (the side has half as many) whose level the decoder
            measures in its own output and corrects.
        level_passes (`int`): how often it does so; each costs two transforms of 2,048 samples a frame.
        level_memory (`int`): how many frames before it each of these passes looks back at, so that its gains do not
            flutter; 0 for none.
        tone_sharpening (`float`): by what share of the difference a tone is lowered, in log power, that is weaker than
            the loudest tone within two semitones of it; 0 leaves all as they are.
        noise_frames (`int`): length of the noise table in frames; after it the noise repeats.
        encoder_hidden_size, encoder_layers, decoder_hidden_size, decoder_layers, kernel_size, expansion:
            the residual ConvNeXt blocks on both sides.
        seanet_filters, seanet_strides, seanet_lstm, seanet_weight_norm: the SEANet backbone.
        seanet_audio_dilation (`int`): dilation of its kernels at the audio rate; 2 where they were learnt at
            24 kHz (see `conversion/convert_encodec.py`).
        latents_mean, latents_std (`tuple` of `latent_dim` floats or `None`): statistics that normalise the
            latents; `None` leaves them as they are.
    """

    model_type = "realtime_jazz_codec"
    bundled_part: ClassVar[str] = "codec"

    def __init__(
        self,
        sampling_rate: int = 48000,
        audio_channels: int = 2,
        hop_length: int = 640,
        latent_dim: int = 128,
        codebook_size: int = 2048,
        codebook_dim: int | tuple[int, ...] | None = None,
        num_codebooks: int = 4,
        max_codebooks: int | None = None,
        prediction_levels: int = 0,
        backbone: str = "lapped",
        phase: str = "free",
        overlap: int = 256,
        analysis_length: int = 8192,
        look_ahead: tuple[int, int] = (0, 0),
        lowest_note: int = 24,
        num_notes: int = 92,
        tones_per_note: int = 1,
        num_bands: int = 40,
        num_pan_bands: int = 12,
        num_fine_bands: int = 128,
        level_passes: int = 3,
        level_memory: int = 0,
        deviation_registers: tuple[int, ...] = (),
        tone_sharpening: float = 0.0,
        noise_frames: int = 1500,
        encoder_hidden_size: int = 320,
        encoder_layers: int = 3,
        decoder_hidden_size: int = 448,
        decoder_layers: int = 3,
        kernel_size: int = 7,
        expansion: int = 3,
        seanet_filters: int = 32,
        seanet_strides: tuple[int, ...] = (8, 5, 4, 4),
        seanet_lstm: bool = False,
        seanet_weight_norm: bool = True,
        seanet_audio_dilation: int = 1,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        **kwargs,
    ):
        self.sampling_rate = sampling_rate
        self.audio_channels = audio_channels
        self.hop_length = hop_length
        self.latent_dim = latent_dim
        self.codebook_size = codebook_size
        self.codebook_dim = tuple(codebook_dim) if isinstance(codebook_dim, list | tuple) else codebook_dim
        self.num_codebooks = num_codebooks
        self.max_codebooks = max_codebooks
        self.prediction_levels = prediction_levels
        self.backbone = backbone
        self.phase = phase
        self.overlap = overlap
        self.analysis_length = analysis_length
        self.look_ahead = tuple(look_ahead) if isinstance(look_ahead, list | tuple) else look_ahead
        self.lowest_note = lowest_note
        self.num_notes = num_notes
        self.tones_per_note = tones_per_note
        self.num_bands = num_bands
        self.num_pan_bands = num_pan_bands
        self.num_fine_bands = num_fine_bands
        self.level_passes = level_passes
        self.level_memory = level_memory
        self.deviation_registers = tuple(deviation_registers)
        self.tone_sharpening = tone_sharpening
        self.noise_frames = noise_frames
        self.encoder_hidden_size = encoder_hidden_size
        self.encoder_layers = encoder_layers
        self.decoder_hidden_size = decoder_hidden_size
        self.decoder_layers = decoder_layers
        self.kernel_size = kernel_size
        self.expansion = expansion
        self.seanet_filters = seanet_filters
        if not isinstance(seanet_strides, (tuple, list)):
            raise ValueError(f"seanet_strides={seanet_strides!r} must be a tuple of whole numbers.")
        self.seanet_strides = tuple(seanet_strides)
        self.seanet_lstm = seanet_lstm
        self.seanet_weight_norm = seanet_weight_norm
        self.seanet_audio_dilation = seanet_audio_dilation
        self.latents_mean = None if latents_mean is None else tuple(latents_mean)
        self.latents_std = None if latents_std is None else tuple(latents_std)
        super().__init__(**kwargs)
        self._check()

    def _check(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone={self.backbone!r} is unknown; use one of {BACKBONES}.")
        if self.phase not in PHASES:
            raise ValueError(f"phase={self.phase!r} is unknown; use one of {PHASES}.")
        names = ("sampling_rate", "hop_length", "latent_dim", "codebook_size", "num_codebooks")
        for name in (*names, "seanet_audio_dilation"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number of at least 1.")
        if not isinstance(self.level_memory, int) or self.level_memory < 0:
            raise ValueError(f"level_memory={self.level_memory!r} must be a whole number of at least 0.")
        sharpening = self.tone_sharpening
        number = isinstance(sharpening, int | float) and not isinstance(sharpening, bool)
        if not number or not 0 <= sharpening < math.inf:
            raise ValueError(f"tone_sharpening={sharpening!r} must be a number of at least 0.")
        if self.max_codebooks is not None and self.max_codebooks < self.num_codebooks:
            raise ValueError(
                f"max_codebooks={self.max_codebooks} must be at least num_codebooks={self.num_codebooks}."
            )
        if self.audio_channels != 2:
            raise ValueError(
                f"audio_channels={self.audio_channels} is not supported: the codec is stereo (2)."
            )
        if self.backbone == "seanet" and math.prod(self.seanet_strides) != self.hop_length:
            raise ValueError(
                f"seanet_strides={self.seanet_strides} multiply to {math.prod(self.seanet_strides)}, "
                f"not to hop_length={self.hop_length}."
            )
        if not 0 < self.overlap <= self.hop_length:
            raise ValueError(f"overlap={self.overlap} must be in 1..hop_length={self.hop_length} samples.")
        if self.analysis_length < 8 * 1024:
            raise ValueError(f"analysis_length={self.analysis_length} must be at least 8192 samples.")
        self._check_look_ahead()
        self._check_registers()
        for name in ("latents_mean", "latents_std"):
            value = getattr(self, name)
            if value is not None and len(value) != self.latent_dim:
                raise ValueError(f"{name} has {len(value)} numbers, latent_dim is {self.latent_dim}.")

    def _check_look_ahead(self) -> None:
        given = self.look_ahead
        whole = isinstance(given, tuple) and all(type(frames) is int and frames >= 0 for frames in given)
        if not whole or len(given) != 2:
            raise ValueError(f"look_ahead={given!r} must be two whole numbers of frames of at least 0.")
        if any(given) and (self.backbone, self.phase) != ("lapped", "free"):
            raise ValueError(
                f"look_ahead={given} wants backbone='lapped' and phase='free', got {self.backbone!r} and "
                f"{self.phase!r}: only that encoder measures tones."
            )

    def _check_registers(self) -> None:
        given = registers = self.deviation_registers
        if not registers:
            return
        if (self.backbone, self.phase) != ("lapped", "free"):
            raise ValueError(
                f"deviation_registers={given} want backbone='lapped' and phase='free', got {self.backbone!r} and "
                f"{self.phase!r}: only that decoder has tones to move."
            )
        end = self.lowest_note + self.num_notes
        ordered = all(isinstance(note, int) for note in registers) and sorted(set(registers)) == list(
            registers
        )
        if not ordered or registers[0] < self.lowest_note or registers[-1] >= end:
            raise ValueError(
                f"deviation_registers={given} must be rising MIDI notes, none below lowest_note={self.lowest_note}, "
                f"all below {end}."
            )
        if self.num_deviations >= self.latent_dim:
            raise ValueError(
                f"latent_dim={self.latent_dim} must be more than the {self.num_deviations} channels of "
                f"deviation_registers={given}."
            )

    @property
    def num_deviations(self) -> int:
        """Channels, the last of the latents, that say how far tones stand beside their notes."""
        return 12 * len(self.deviation_registers)

    @property
    def energy_dim(self) -> int:
        """Channels, the first of the latents, that say what sounds and how loud."""
        return self.latent_dim - self.num_deviations

    @property
    def total_codebooks(self) -> int:
        """Levels that there are."""
        return self.num_codebooks if self.max_codebooks is None else self.max_codebooks

    @property
    def num_tones(self) -> int:
        """Tones of the decoder's bank."""
        return self.num_notes * self.tones_per_note

    @property
    def frame_rate(self) -> float:
        """Frames a second: 75 at 48 kHz and a hop of 640."""
        return self.sampling_rate / self.hop_length

    @property
    def frames_ahead(self) -> int:
        """Frames that an encoder which measures ahead waits for, beyond a frame's `latency_samples`."""
        return max(self.look_ahead)

    @property
    def latency_samples(self) -> int:
        """Samples from the start of a frame until it can be encoded with `low_delay`; `frames_ahead` frames more
        without."""
        return self.hop_length + (self.overlap if self.backbone == "lapped" else 0)

    @classmethod
    def mini(cls, **kwargs) -> RealTimeJazzCodecConfig:
        """The codec of `rtjazz-mini`: about 6M parameters."""
        return cls(**kwargs)

    @classmethod
    def base(cls, **kwargs) -> RealTimeJazzCodecConfig:
        """The codec of `rtjazz-base`: about 25M parameters."""
        sizes = dict(encoder_hidden_size=640, encoder_layers=4, decoder_hidden_size=768, decoder_layers=4)
        return cls(**{**sizes, **kwargs})


__all__ = ["BACKBONES", "PHASES", "RealTimeJazzCodecConfig"]
