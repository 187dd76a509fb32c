"""The lapped backbone: a transform to start from, and causal residual blocks that learn the rest.

With `phase="free"` the encoder measures the energy of every semitone (long windows), of every ERB band (short
windows), of the side signal and its pan; the latents start as principal components of these. The decoder turns
them into the levels of a bank of tones that run on in phase for ever and of band-wise noise, both in frames that
overlap by `overlap` samples. No latent carries a phase, so what a chord chart says moves the mean of the latents.

With `phase="kept"` the latents start as principal components of signed MDCT coefficients instead: closer to the
waveform, and much harder to predict from a chart.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_realtime_jazz_codec import RealTimeJazzCodecConfig
from .streaming import CausalConv1d, StreamingState
from .transforms import FLOOR, constant

WINDOWS = {8192: 1024, 4096: 1024, 2048: 768, 1024: 256}  # analysis windows and how quickly each falls
CHUNK_FRAMES = 64
PRE_EMPHASIS_HZ = 1000.0  # phase="kept": coefficients above this weigh as those at it, lower ones less


class ResidualBlock(nn.Module):
    """A causal ConvNeXt block (Liu et al., 2022) that starts as the identity."""

    def __init__(self, width: int, kernel_size: int, expansion: int):
        super().__init__()
        self.depthwise = CausalConv1d(width, width, kernel_size, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, expansion * width)
        self.contract = nn.Linear(expansion * width, width)

    def forward(
        self, x: torch.Tensor, state: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """x (batch, frames, width) -> the same, state."""
        y, state = self.depthwise(x.transpose(1, 2), state)
        y = self.contract(F.gelu(self.expand(self.norm(y.transpose(1, 2)))))
        return x + y, state


def _run_blocks(blocks, x: torch.Tensor, state: StreamingState | None, new: StreamingState) -> torch.Tensor:
    for index, block in enumerate(blocks):
        name = f"block_{index}"
        x, new[name] = block(x, None if state is None else state[name])
    return x


class LappedEncoder(nn.Module):
    """Audio to un-normalised latents, frame by frame, with the past of the stream in the state."""

    def __init__(self, config: RealTimeJazzCodecConfig):
        super().__init__()
        self.config = config
        base, extra = self.feature_sizes(config)
        width = config.encoder_hidden_size
        # Statistics of the features and the principal components: fitted once, then learnt on.
        self.base_mean = nn.Parameter(torch.zeros(base))
        self.extra_mean = nn.Parameter(torch.zeros(extra))
        self.extra_scale = nn.Parameter(torch.ones(extra))
        self.components = nn.Linear(base, config.latent_dim, bias=False)
        self.project_in = nn.Linear(base + extra, width)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, config.kernel_size, config.expansion) for _ in range(config.encoder_layers)
        )
        self.project_out = nn.Linear(width, config.latent_dim)

    @staticmethod
    def feature_sizes(config: RealTimeJazzCodecConfig) -> tuple[int, int]:
        """Sizes of the features that start as latents, and of those the blocks see beside them."""
        bands = 2 * config.num_bands
        if config.phase == "kept":
            return 2 * config.hop_length, bands
        low = min(48, config.num_notes)
        extra = (low - 36) + 12 + 12 + 65
        return config.num_notes + bands + config.num_pan_bands, extra

    def init_state(self, batch_size: int, device=None) -> StreamingState:
        """The silence before a stream."""
        config = self.config
        past = config.analysis_length - config.hop_length - config.overlap
        state = StreamingState({"audio": torch.zeros(batch_size, 2, past, device=device)})
        for index, block in enumerate(self.blocks):
            state[f"block_{index}"] = block.depthwise.init_state(
                batch_size, device, self.project_in.weight.dtype
            )
        return state

    def windows(self, audio: torch.Tensor, state: StreamingState, flush: bool):
        """All analysis windows that are complete: (batch, mid/side, frames, analysis_length), and the rest."""
        config = self.config
        if flush:  # to the end of the frame, and what its overlap would see
            audio = F.pad(audio, (0, -audio.shape[-1] % config.hop_length + config.overlap))
        mid_side = torch.stack([audio[:, 0] + audio[:, 1], audio[:, 0] - audio[:, 1]], dim=1) / 2
        mid_side = torch.cat([state["audio"], mid_side], dim=-1)
        frames = max(0, (mid_side.shape[-1] - config.analysis_length) // config.hop_length + 1)
        rest = mid_side[..., frames * config.hop_length :].clone()
        if frames == 0:
            return mid_side.new_zeros(audio.shape[0], 2, 0, config.analysis_length), rest
        return mid_side.unfold(-1, config.analysis_length, config.hop_length)[:, :, :frames], rest

    def features(self, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows (batch, 2, frames, analysis_length) -> base and extra features (batch, frames, size)."""
        config, device = self.config, windows.device
        rate = config.sampling_rate

        def spectrum(size: int, channels: slice = slice(None)) -> torch.Tensor:
            window = constant("asymmetric_window", size, WINDOWS[size], device=device)
            return torch.fft.rfft(windows[:, channels, :, -size:] * window)

        def power_of(spectrum: torch.Tensor) -> torch.Tensor:
            return torch.view_as_real(spectrum).square().sum(-1)

        def decibel(power: torch.Tensor) -> torch.Tensor:
            return torch.log(power + FLOOR)

        power = power_of(spectrum(1024))
        bands = power @ constant("band_matrix", 1024, config.num_bands, rate, device=device).T
        bands = decibel(bands)  # (batch, 2, frames, bands)
        bands = torch.cat([bands[:, 0], bands[:, 1]], dim=-1)
        if config.phase == "kept":
            basis = constant("mdct_basis", config.hop_length, config.overlap, device=device)
            coefficients = windows[..., -basis.shape[1] :] @ basis.T * self.emphasis(device)
            return torch.cat([coefficients[:, 0], coefficients[:, 1]], dim=-1), bands

        # Longer windows where semitones lie closer together.
        low, end = config.lowest_note, config.lowest_note + config.num_notes
        low_end = min(low + 48, end)
        mid = slice(0, 1)
        long, middle = power_of(spectrum(8192, mid))[:, 0], power_of(spectrum(4096, mid))[:, 0]
        short = spectrum(2048)
        short_power = power_of(short[:, 0])

        def semitones(power: torch.Tensor, size: int, first: int, last: int) -> torch.Tensor:
            matrix = constant("semitone_matrix", size, first, last, rate, 0.5, device=device)
            return decibel(power @ matrix.T)

        notes_long = semitones(long, 8192, low, low_end)
        notes_middle = semitones(middle, 4096, low + 24, low + 60)
        notes_short = semitones(short_power, 2048, low + 48, end)
        tones = torch.cat([notes_long[..., :36], notes_middle[..., 12:36], notes_short[..., 12:]], dim=-1)
        pool = constant("band_matrix", 2048, config.num_pan_bands, rate, device=device).T
        together = (short[:, 0] * short[:, 1].conj()).real @ pool
        pan = (together / (short_power @ pool + FLOOR)).clamp(-1, 1)
        base = torch.cat([tones, bands, 4 * pan], dim=-1)
        extra = [notes_long[..., 36:], notes_middle[..., :12], notes_short[..., :12]]
        extra.append(decibel(long[..., 5:70]))
        return base, torch.cat(extra, dim=-1)

    def emphasis(self, device) -> torch.Tensor:
        """phase="kept": weight of each MDCT coefficient, for bass would fill every component."""
        config = self.config
        place = (torch.arange(config.hop_length, device=device) + 0.5) / config.hop_length
        hertz = place * config.sampling_rate / 2
        return 10 * (hertz / PRE_EMPHASIS_HZ).clamp(max=1).sqrt()

    def forward(
        self, audio: torch.Tensor, state: StreamingState | None = None, flush: bool = True
    ) -> tuple[torch.Tensor, StreamingState]:
        """audio (batch, 2, samples) -> latents (batch, latent_dim, frames), state.

        `flush` ends the stream: the last frame is padded with silence.
        """
        if state is None:
            state = self.init_state(audio.shape[0], audio.device)
        new = StreamingState()
        windows, new["audio"] = self.windows(audio.float(), state, flush)
        if windows.shape[2] == 0:
            latents = windows.new_zeros(audio.shape[0], self.config.latent_dim, 0)
            return latents, StreamingState({**state.entries, "audio": new["audio"]})
        # Overlapping windows are 13 times the audio: in pieces they stay in the cache, and hours in memory.
        pieces = [self.features(piece) for piece in windows.split(CHUNK_FRAMES, dim=2)]
        base, extra = (torch.cat(parts, dim=1) for parts in zip(*pieces))
        base = (base - self.base_mean).to(self.components.weight.dtype)
        extra = ((extra - self.extra_mean) / self.extra_scale).to(base.dtype)
        x = self.project_in(torch.cat([base / 3, extra], dim=-1))
        x = _run_blocks(self.blocks, x, state, new)
        latents = self.components(base) + 3 * self.project_out(x)
        return latents.transpose(1, 2), new


class LappedDecoder(nn.Module):
    """Un-normalised latents to audio; the state holds the frame counter, the overlap and the blocks' past."""

    def __init__(self, config: RealTimeJazzCodecConfig):
        super().__init__()
        self.config = config
        base, _ = LappedEncoder.feature_sizes(config)
        width = config.decoder_hidden_size
        bands = 2 * config.num_bands
        controls = base + bands if config.phase == "kept" else 2 * config.num_notes + bands
        self.components = nn.Linear(config.latent_dim, base)
        self.noise_offset = nn.Parameter(torch.zeros(bands))  # what tones leave to the noise, in log power
        self.project_in = nn.Linear(config.latent_dim, width)
        self.blocks = nn.ModuleList(
            ResidualBlock(width, config.kernel_size, config.expansion) for _ in range(config.decoder_layers)
        )
        self.project_out = nn.Linear(width, controls)

    def init_state(self, batch_size: int, device=None) -> StreamingState:
        """A stream at frame 0."""
        state = StreamingState(
            {
                "frame": torch.zeros(batch_size, dtype=torch.int64, device=device),
                "tail": torch.zeros(batch_size, 2, self.config.overlap, device=device),
            }
        )
        for index, block in enumerate(self.blocks):
            state[f"block_{index}"] = block.depthwise.init_state(
                batch_size, device, self.project_in.weight.dtype
            )
        return state

    def _tones(self, amplitudes: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        """Amplitudes (batch, channels, frames, notes) -> windowed frames of samples."""
        config, device = self.config, amplitudes.device
        count, hop = config.num_notes, config.hop_length
        notes = torch.arange(
            config.lowest_note, config.lowest_note + count, dtype=torch.float64, device=device
        )
        turns = 440.0 * 2.0 ** ((notes - 69) / 12) * hop / config.sampling_rate
        # float64 and modulo one turn: a stream of days keeps its phase.
        phase = (turns * frame[..., None] + constant("note_phases", count, device=device)) % 1.0
        angle = (2 * math.pi * phase).float()[:, None]  # (batch, 1, frames, notes)
        basis = constant(
            "tone_basis", hop, config.overlap, config.lowest_note, count, config.sampling_rate, device=device
        )
        return torch.cat([amplitudes * angle.cos(), amplitudes * angle.sin()], dim=-1) @ basis

    def _noise(self, log_power: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
        """Log band power (batch, 2, frames, bands) -> MDCT coefficients of noise (batch, 2, frames, hop)."""
        config, device = self.config, log_power.device
        counts = constant("band_matrix", 1024, config.num_bands, config.sampling_rate, device=device).sum(-1)
        window = constant("asymmetric_window", 1024, WINDOWS[1024], device=device)
        # White noise of unit variance has this power in a band of the encoder's analysis.
        unit = counts * window.square().sum()
        amplitude = torch.exp(0.5 * (log_power - unit.log()).clamp(-20, 6))
        spread = constant("band_interpolation", config.num_bands, config.hop_length, config.sampling_rate)
        signs = constant("noise_signs", config.noise_frames, config.hop_length, device=device)
        signs = signs[:, frame % config.noise_frames].transpose(0, 1)  # (batch, 2, frames, hop)
        return (amplitude @ spread.to(device)) * signs

    def forward(
        self, latents: torch.Tensor, state: StreamingState | None = None
    ) -> tuple[torch.Tensor, StreamingState]:
        """latents (batch, latent_dim, frames) -> audio (batch, 2, frames * hop_length), state."""
        config, batch = self.config, latents.shape[0]
        if state is None:
            state = self.init_state(batch, latents.device)
        if latents.shape[-1] == 0:
            return latents.new_zeros(batch, 2, 0), state
        new = StreamingState()
        z = latents.transpose(1, 2).to(self.project_in.weight.dtype)
        frame = state["frame"][:, None] + torch.arange(z.shape[1], device=z.device)
        new["frame"] = state["frame"] + z.shape[1]
        start = self.components(z).float()
        x = _run_blocks(self.blocks, self.project_in(z / 3), state, new)
        control = self.project_out(x).float()
        mdct = constant("mdct_basis", config.hop_length, config.overlap, device=z.device)
        bands = config.num_bands

        if config.phase == "kept":
            base = start.shape[-1]
            signed = (start + control[..., :base]).unflatten(-1, (2, -1)).transpose(1, 2)
            signed = signed / LappedEncoder.emphasis(self, z.device)
            noise = (3 * control[..., base:] + self.noise_offset).unflatten(-1, (2, bands)).transpose(1, 2)
            frames = (signed + self._noise(noise, frame)) @ mdct
        else:
            notes = config.num_notes
            level = start[..., :notes]
            # A partial leaks into its neighbours' filters: what is weaker than a neighbour is pushed down.
            neighbour = torch.maximum(F.pad(level, (1, 0))[..., :-1], F.pad(level, (0, 1))[..., 1:])
            level = level - 1.5 * F.relu(neighbour - level)
            amplitude = torch.exp(0.5 * (level + 3 * control[..., :notes]).clamp(-20, 2))
            index = constant("band_index", config.num_pan_bands, config.lowest_note, notes, device=z.device)
            pan = start[..., notes + 2 * bands :][..., index] / 4 + control[..., notes : 2 * notes]
            amplitudes = torch.stack([amplitude, amplitude * pan.clamp(-1.2, 1.2)], dim=1)
            noise = start[..., notes : notes + 2 * bands] + 3 * control[..., 2 * notes :] + self.noise_offset
            noise = noise.unflatten(-1, (2, bands)).transpose(1, 2)
            frames = self._tones(amplitudes, frame) + self._noise(noise, frame) @ mdct

        # Overlap-add: (batch, 2, frames, hop + overlap) -> samples; the last overlap waits in the state.
        tails = torch.cat([state["tail"][:, :, None].to(frames), frames[..., config.hop_length :]], dim=2)
        head = frames[..., : config.overlap] + tails[:, :, :-1]
        mid_side = torch.cat([head, frames[..., config.overlap : config.hop_length]], dim=-1).flatten(2)
        new["tail"] = tails[:, :, -1].clone()
        audio = torch.stack([mid_side[:, 0] + mid_side[:, 1], mid_side[:, 0] - mid_side[:, 1]], dim=1)
        return audio, new


@torch.no_grad()
def fit_components(encoder: LappedEncoder, decoder: LappedDecoder, audio: list[torch.Tensor]) -> float:
    """Set the transform start: principal components of the features of `audio`, a list of (batch, 2, samples).

    Returns the share of the weighted variance that the latents keep.
    """
    config = encoder.config
    pairs = []
    for clip in audio:
        windows, _ = encoder.windows(clip.float(), encoder.init_state(clip.shape[0]), flush=True)
        pairs.append([feature.flatten(0, 1) for feature in encoder.features(windows)])
    base, extra = (torch.cat(parts) for parts in zip(*pairs))
    weights = torch.ones(base.shape[-1])
    if config.phase == "free":  # what the ear forgives counts less: bands, side, pan
        notes, bands = config.num_notes, config.num_bands
        weights[notes : notes + bands] = 0.7
        weights[notes + bands : notes + 2 * bands] = 0.5
        weights[notes + 2 * bands :] = 0.6
    mean = base.mean(0) if config.phase == "free" else torch.zeros(base.shape[-1])
    scaled = (base - mean) * weights
    values, vectors = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    vectors = vectors[:, -config.latent_dim :].flip(1)  # strongest first
    encoder.base_mean.copy_(mean)
    encoder.components.weight.copy_((vectors * weights[:, None]).T)
    encoder.extra_mean.copy_(extra.mean(0))
    encoder.extra_scale.copy_(extra.std(0) + 1e-3)
    decoder.components.weight.copy_(vectors / weights[:, None])
    decoder.components.bias.copy_(mean)
    if config.phase == "free":
        # Where tones reach, noise starts 4 dB (log power 0.9) and more below the band.
        edges = constant("band_matrix", 1024, config.num_bands, config.sampling_rate)
        centre = (edges * torch.linspace(0, config.sampling_rate / 2, 513)).sum(-1) / edges.sum(-1)
        offset = torch.where(centre < 1500, -4.0, torch.where(centre < 5000, -2.5, 0.0))
        decoder.noise_offset.copy_(offset.repeat(2))
    else:
        # Inaudible until it is learnt: at a log power of -8 it drowned half of the pitches on quiet takes.
        decoder.noise_offset.fill_(math.log(FLOOR))
    return (values[-config.latent_dim :].sum() / values.sum()).item()
